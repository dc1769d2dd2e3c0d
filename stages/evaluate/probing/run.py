"""Probing of SAEs on heldout documents: what few latents tell of a document's topic, of syntax and of the document.

Beside the codes are probed those of an SAE that was only initialised, which shows what training adds, and all
dimensions of the activations, which hold whatever codes can hold. The tasks follow the T-SAE paper (arXiv 2511.05541)
but for the splits, which are disjoint by document, or in position where documents are the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csr_array
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stages.evaluate.batches import Batches
from stages.evaluate.catalogue import SUMMARY_K
from stages.evaluate.probing.part_of_speech import tagger_version
from stages.evaluate.probing.sparse_probe import KS, RESAMPLES, Features, Score, majority, probe_all, probe_latents
from stages.evaluate.probing.tasks import DEFINITIONS, FOLDS, MIN_DOCUMENTS, Task, make_tasks
from stages.evaluate.untrained import normalisation_of, references
from stages.sae.build import Blueprint
from stages.sae.model import SAE
from store import ActivationStore
from store.progress import SILENT, Progress

ALL = "all"
"""Stands for k where all features are read, or none."""

Signal = Callable[[Float[Tensor, "batch seq d"], Int[Tensor, "batch seq"]], Float[Tensor, "batch seq features"]]
"""Makes features of raw activations and documents."""
Scores = dict[str, dict[str, Score]]
"""By task and k, or `all`."""


@dataclass(frozen=True)
class Probing:
    """The probes of one SAE."""

    tasks: dict[str, Task]
    """By the names in `tasks.DEFINITIONS`."""
    scores: dict[str, Scores]
    """By signal: `codes`, `untrained`, `activations`, `majority`. Tasks that cannot be asked have none."""

    def document(self, fingerprint: str) -> dict[str, Any]:
        """The content of `probing.json`."""
        return {
            "format": "tsae-probing",
            "version": 1,
            "fingerprint": fingerprint,
            "k": list(KS),
            "folds": FOLDS,
            "min_documents": MIN_DOCUMENTS,
            "resamples": RESAMPLES,
            "tagger": tagger_version(),
            "tasks": {name: self._task(name, task) for name, task in self.tasks.items()},
        }

    def _task(self, name: str, task: Task) -> dict[str, Any]:
        found = {signal: scores.get(name, {}) for signal, scores in self.scores.items()}
        return {
            "definition": DEFINITIONS[name],
            "reason": task.reason,
            "examples": len(task.label),
            "documents": len(np.unique(task.document)),
            "classes": task.sizes,
            "left_out": task.left_out,
            "scores": {signal: {k: asdict(score) for k, score in each.items()} for signal, each in found.items()},
        }

    def summary(self) -> dict[str, float]:
        """Flat numbers, all of them accuracies or their standard errors; NaN for one that does not exist."""
        k = str(SUMMARY_K)
        return {
            f"probe_{task}_{name}": value
            for task in self.tasks
            for name, value in {
                f"k{k}": self._number(task, "codes", k, "accuracy"),
                f"k{k}_se": self._number(task, "codes", k, "accuracy_se"),
                f"k{k}_untrained": self._number(task, "untrained", k, "accuracy"),
                "dense": self._number(task, "activations", ALL, "accuracy"),
                "majority": self._number(task, "majority", ALL, "accuracy"),
            }.items()
        }

    def _number(self, task: str, signal: str, k: str, name: str) -> float:
        """One number of a score."""
        scores = self.scores[signal].get(task)
        return getattr(scores[k], name) if scores else math.nan


@torch.no_grad()
def probe(
    saes: Mapping[str, SAE],
    blueprints: Mapping[str, Blueprint],
    store: ActivationStore,
    layer: int,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    progress: Progress = SILENT,
) -> dict[str, Probing]:
    """Probe the codes of SAEs of one layer; by name, the scores of each.

    All heldout rows are encoded, in batches of the evaluation's size, one SAE after another. The activations are
    probed once, and one untrained SAE stands for all SAEs of a blueprint; its thresholds are measured on the batch
    that the temporal metrics take.
    """
    device = next(iter(saes.values())).W_dec.device
    mean = normalisation_of(store, layer).mean.to(device, torch.float32)
    fresh = references((blueprints[name] for name in saes), store, layer, batches.variance[0], device)
    progress.start("probes", 1 + len(fresh) + len(saes), "signals")
    tasks = make_tasks(store, tokenizer)
    asked = {name: task for name, task in tasks.items() if task.reason is None}

    def scores(signal: Signal, score: Callable[[Features, Task], dict[str, Score]]) -> Scores:
        features = collect(signal, store, layer, batches.batch_rows, asked, device)
        found = {name: score(features[name], task) for name, task in asked.items()}
        progress.advance(1)
        return found

    shared = {
        "activations": scores(lambda x, _: x - mean, lambda features, task: {ALL: probe_all(features, task)}),
        "majority": {name: {ALL: majority(task)} for name, task in asked.items()},
    }
    measured = {each: scores(_codes(sae), probe_latents) for each, sae in fresh.items()}
    return {
        name: Probing(
            tasks, {"codes": scores(_codes(sae), probe_latents), "untrained": measured[blueprints[name]]} | shared
        )
        for name, sae in saes.items()
    }


def _codes(sae: SAE) -> Signal:
    return lambda x, document: sae.encode(x, segments=document)


def collect(
    signal: Signal, store: ActivationStore, layer: int, batch_rows: int, tasks: Mapping[str, Task], device: torch.device
) -> dict[str, Features]:
    """By task, the features of its examples: means over their tokens. Of the features of a batch only these are kept,
    without their zeros."""
    rows = store.rows("heldout")
    parts: dict[str, list[coo_array]] = {name: [] for name in tasks}
    for first in range(0, len(rows), batch_rows):
        batch = rows[first : first + batch_rows]
        document = torch.as_tensor(store.document(batch)).to(device)
        values = signal(store.read(layer, batch).to(device).float(), document).flatten(0, 1)
        for name, task in tasks.items():
            parts[name].append(_means(values, task, first * store.context))
    return {name: _summed(each) for name, each in parts.items()}


def _means(values: Float[Tensor, "positions features"], task: Task, first: int) -> coo_array:
    """[examples, features]: what the positions from `first` on contribute to the mean over each example's tokens."""
    here = np.flatnonzero((task.tokens >= first) & (task.tokens < first + len(values)))
    example = task.example[here]
    share = (1 / np.bincount(task.example)[example]).astype(np.float32)
    weights = csr_array((share, (example, np.arange(len(here)))), shape=(len(task.label), len(here)))
    used = torch.as_tensor(task.tokens[here] - first, device=values.device)
    return (weights @ csr_array(values[used].cpu().numpy())).tocoo()


def _summed(parts: Sequence[coo_array]) -> csr_array:
    """The sum of sparse arrays of one shape."""
    data = np.concatenate([part.data for part in parts])
    places = tuple(np.concatenate(each) for each in zip(*(part.coords for part in parts), strict=True))
    return csr_array((data, places), shape=parts[0].shape)
