"""Temporal metrics of SAEs on heldout activations, beside the nulls and references that give them a meaning.

A score means little alone, because text is consistent by itself. What the order of tokens contributes shows against
the same windows permuted within documents, what training contributes against an SAE that was only initialised, and
what was there before any SAE in the activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.evaluate.replicates import kept
from stages.evaluate.standard_error import standard_error
from stages.evaluate.temporal import consistency
from stages.evaluate.temporal.consistency import SCALES, Lags
from stages.evaluate.temporal.measure import Measure
from stages.evaluate.temporal.segments import Segments
from stages.evaluate.temporal.sentences import SentenceEnds
from stages.evaluate.temporal.signals import CODES, UNTRAINED, ActivationMeters, Batch, CodeMeters
from stages.evaluate.untrained import count_firings, normalisation_of, references
from stages.sae.build import Blueprint
from stages.sae.model import SAE
from store import ActivationStore
from store.progress import SILENT, Progress

SUFFIXES = {
    "codes": "",
    "codes_inputs_permuted": "_inputs_permuted",
    "codes_permuted": "_codes_permuted",
    "untrained": "_untrained",
    "activations": "_activations",
}
"""What `summary.json` adds to the names of the numbers of a measure."""
Number = TypeVar("Number", float, np.ndarray)
"""A number, or its replicates."""
GAIN = ("codes", "codes_inputs_permuted", "untrained", "untrained_inputs_permuted")
"""Measures that a gain is made of, in the order of `gain`."""


@dataclass(frozen=True)
class Temporal:
    """The temporal metrics of one SAE."""

    lags: Lags
    """The pairs that there were."""
    rows: int
    """Rows of the store that were read."""
    measures: dict[str, Measure]
    """By the names in `stages.evaluate.temporal.signals`."""

    def document(self, fingerprint: str) -> dict[str, Any]:
        """The content of `temporal.json`."""
        return {
            "format": "tsae-temporal",
            "version": 3,
            "fingerprint": fingerprint,
            "tokens": int(self.lags.pairs[0]),
            "rows": self.rows,
            "pairs": self.lags.pairs[1:].tolist(),
            "min_pairs": consistency.MIN_PAIRS,
            "scales": {name: {"lags": list(lags), "used": self.lags.used(name)} for name, lags in SCALES.items()},
            "measures": {name: measure.document() for name, measure in self.measures.items()},
            "replicates": kept(self.replicates),
        }

    def summary(self) -> dict[str, float]:
        """Flat numbers; NaN for one that does not exist.

        `_gain` is what training made of the order of the tokens: how far codes differ from their null of permuted
        inputs, less how far those of the untrained SAE differ from theirs. `_se` are standard errors, of the codes and
        of the gains.
        """
        numbers = {
            name + suffix: value
            for measure, suffix in SUFFIXES.items()
            for name, value in self.measures[measure].scalars.items()
            if not (measure == "activations" and name.startswith("fsm"))
        }
        codes, *others = (self.measures[name].scalars for name in GAIN)
        names = [name for name in codes if all(name in other for other in others)]
        numbers |= {f"{name}_gain": gain(codes[name], *(other[name] for other in others)) for name in names}
        return numbers | {f"{name}_se": standard_error(values) for name, values in self.replicates.items()}

    @property
    def replicates(self) -> dict[str, Float[np.ndarray, " replicates"]]:
        """Replicates of numbers of the summary: of the codes and of the gains, whose four measures share documents."""
        codes, *others = (self.measures[name].replicates for name in GAIN)
        names = [name for name in codes if all(name in other for other in others)]
        return codes | {f"{name}_gain": gain(codes[name], *(other[name] for other in others)) for name in names}


def gain(codes: Number, null: Number, untrained: Number, untrained_null: Number) -> Number:
    """What training made of the order of the tokens, from a number of the codes and of an untrained SAE's and from
    those of their nulls of permuted inputs."""
    return (codes - null) - (untrained - untrained_null)


@torch.no_grad()
def temporal(
    saes: Mapping[str, SAE],
    blueprints: Mapping[str, Blueprint],
    firings: Mapping[str, Float[Tensor, " d_sae"]],
    store: ActivationStore,
    layer: int,
    batches: Sequence[np.ndarray],
    progress: Progress = SILENT,
    levels: Mapping[str, Sequence[int]] | None = None,
    sentence_ends: SentenceEnds | None = None,
) -> dict[str, Temporal]:
    """Encode the stored activations of `batches` of rows in their order and permuted; by name, each SAE's metrics.

    `firings` counts the kept tokens at which each latent fires. The activations are measured once, and one
    untrained SAE stands for all SAEs of a blueprint. `levels` are those of Matryoshka SAEs. Without `sentence_ends`
    nothing is known of sentences.
    """
    device = next(iter(saes.values())).W_dec.device
    fresh = references((blueprints[name] for name in saes), store, layer, batches[0], device)
    fresh_firings = count_firings(fresh, store, layer, batches, progress)
    lags = Lags.of(Segments(store.document(rows), device) for rows in batches)
    levels = levels or {}
    meters = {name: CodeMeters(CODES, sae, firings[name], lags, levels.get(name, ())) for name, sae in saes.items()}
    others = {key: CodeMeters(UNTRAINED, sae, fresh_firings[key], lags) for key, sae in fresh.items()}
    inputs = ActivationMeters(normalisation_of(store, layer).mean.to(device), lags)
    everything: list[ActivationMeters | CodeMeters] = [inputs, *meters.values(), *others.values()]
    progress.start("temporal metrics", len(batches), "batches")
    for each in batches:
        batch = Batch.read(store, layer, each, device, sentence_ends)
        for meter in everything if len(batch.segments.positions) else ():
            meter.add(batch)
        progress.advance(1)
    rows = sum(map(len, batches))
    shared = inputs.finish()
    measured = {key: meter.finish() for key, meter in others.items()}
    return {
        name: Temporal(lags, rows, meter.finish() | measured[blueprints[name]] | shared)
        for name, meter in meters.items()
    }
