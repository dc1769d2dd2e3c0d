"""Evaluate trained runs, and SAEs that others saved, on the heldout rows of a store."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.evaluate.config import EvaluateConfig
from stages.evaluate.features import latent_metrics
from stages.evaluate.foreign import read_subject
from stages.evaluate.heldout import HeldoutBatches
from stages.evaluate.output import Evaluation, facts
from stages.evaluate.part_of_speech import tagger_version
from stages.evaluate.probing import probe
from stages.evaluate.results import CORE, PROBING, SUMMARY, TEMPORAL
from stages.evaluate.sentences import SentenceEnds
from stages.evaluate.splicing import reconstruction
from stages.evaluate.subject import Subject
from stages.evaluate.temporal import temporal
from stages.evaluate.variance import sparsity_variance
from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel
from stages.language_model.model import load as load_language_model
from stages.language_model.splice import Splice
from store import ActivationStore
from store import open as open_store
from store.files import digest, write_json
from store.problem import Problem
from store.progress import SILENT, Progress

METRICS_VERSION = 4
"""Raised whenever a change to this code changes a number, so that old results are not reused."""


@dataclass(frozen=True)
class EvaluationResult:
    """What the evaluation of one run ended with."""

    name: str
    """`variant/seed`."""
    summary: dict[str, float | int | None]
    """The numbers of `summary.json`."""
    did: str
    """`evaluated`, or `finished before`."""

    def facts(self) -> dict[str, object]:
        """What a person reads first, as text."""
        return facts(self.summary)


def evaluate(
    runs: Sequence[tuple[Path, Path]],
    store: str | Path,
    lm_config: ModelConfig,
    config: EvaluateConfig | None = None,
    *,
    progress: Progress = SILENT,
) -> list[EvaluationResult]:
    """Evaluate runs of one store together: they share the clean and the ablated pass of the language model.

    A run whose results are there already, by fingerprint, is not evaluated again.

    Args:
        runs: pairs of what to evaluate (a training's folder, a folder that SAELens saved, or Gemma Scope's
            `params.npz`) and the folder that receives `core.json` (SAEBench's schema), `temporal.json` (temporal
            metrics, their nulls and references), `probing.json` (probes of few latents) and `summary.json` (flat
            numbers).
        store: the activation store that all of them were trained on, or one of their model and layer.
        lm_config: the language model that made the store.

    Raises:
        Problem: an unfinished run, a run of another store, a store without heldout documents, a language
            model other than the store's.
    """
    opened = open_store(store)
    config = config or EvaluateConfig()
    tasks = [_Task.prepare(folder, out, opened, lm_config, config) for folder, out in runs]
    batches = HeldoutBatches.divide(opened.rows("heldout"), config)
    waiting = [task for task in tasks if not task.finished()]
    if waiting:
        lm = load_language_model(lm_config, progress)
        check_model(opened, lm)
        for layer in sorted({task.subject.layer for task in waiting}):
            group = [task for task in waiting if task.subject.layer == layer]
            _evaluate_layer(group, lm, opened, layer, batches, progress)
    return [task.result("evaluated" if task in waiting else "finished before") for task in tasks]


@dataclass(frozen=True)
class _Task:
    """One evaluation to do."""

    out: Path
    subject: Subject
    fingerprint: str

    @classmethod
    def prepare(
        cls, folder: Path, out: Path, store: ActivationStore, lm_config: ModelConfig, config: EvaluateConfig
    ) -> _Task:
        """Read and check the run."""
        subject = read_subject(folder, store)
        decided = {
            "metrics_version": METRICS_VERSION,
            "tagger": tagger_version(),
            "run": subject.identity,
            "store": store.root,
            "model_dtype": lm_config.dtype,
            "config": asdict(config),
        }
        return cls(out, subject, digest(decided))

    @property
    def key(self) -> str:
        """Unique among the runs evaluated together; names are not, a run may be trained twice."""
        return str(self.out)

    def finished(self) -> bool:
        """Whether the results of this very evaluation are there."""
        try:
            names = (CORE, TEMPORAL, PROBING, SUMMARY)
            core, of_time, probes, _ = (json.loads((self.out / name).read_text()) for name in names)
            found = {core["eval_result_unstructured"]["fingerprint"], of_time["fingerprint"], probes["fingerprint"]}
            return found == {self.fingerprint}
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def result(self, did: str) -> EvaluationResult:
        """What the files now say."""
        return EvaluationResult(self.subject.name, json.loads((self.out / SUMMARY).read_text()), did)


def check_model(store: ActivationStore, lm: LanguageModel) -> None:
    """A Problem unless `lm` is the very model (weights, tokenizer, configuration) that made the store."""
    recorded = store.request["model"]
    different = [name for name, value in lm.identity.items() if recorded.get(name) != value]
    if different:
        raise Problem(
            "This language model is not the one that made the activation store.",
            where=store.path,
            expected=", ".join([str(recorded["name"]), *(f"{n} {recorded.get(n)}" for n in different)]),
            found=", ".join([lm.name, *(f"{n} {lm.identity[n]}" for n in different)]),
            do="evaluate with the store's model (--model), or choose the store of this one (--store)",
        )


def _evaluate_layer(
    tasks: Sequence[_Task],
    lm: LanguageModel,
    store: ActivationStore,
    layer: int,
    batches: HeldoutBatches,
    progress: Progress,
) -> None:
    """Evaluate the runs of one layer and write their results, `core.json` last: it marks the end."""
    begun = time.monotonic()
    device = next(lm.model.parameters()).device
    saes = {task.key: task.subject.load().to(device) for task in tasks}
    levels = {task.key: task.subject.levels for task in tasks}
    variances = sparsity_variance(saes, store, layer, batches.variance, progress, levels)
    blueprints = {
        task.key: task.subject.blueprint(saes[task.key], variances[task.key].scalars["l0_events"]) for task in tasks
    }
    firings = {name: variance.firings for name, variance in variances.items()}
    sentence_ends = SentenceEnds(lm.tokenizer)
    temporals = temporal(saes, blueprints, firings, store, layer, batches.variance, progress, levels, sentence_ends)
    probings = probe(saes, blueprints, store, layer, lm.tokenizer, batches, progress)
    splicings = reconstruction(saes, Splice(lm, layer), store, batches.reconstruction, progress)
    seconds = round(time.monotonic() - begun, 1)
    model = {
        "name": lm.name,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "attention": lm.attention,
    }
    for task in tasks:
        variance, splicing, out = variances[task.key], splicings[task.key], task.out
        latents = latent_metrics(saes[task.key], variance)
        evaluation = Evaluation(
            task.fingerprint,
            task.subject,
            variance,
            splicing,
            temporals[task.key],
            probings[task.key],
            latents,
            batches,
            model,
        )
        write_json(out / SUMMARY, evaluation.summary())
        write_json(out / TEMPORAL, evaluation.temporal.document(task.fingerprint))
        write_json(out / PROBING, evaluation.probing.document(task.fingerprint))
        write_json(out / CORE, evaluation.core(store))
        clock = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": seconds}
        write_json(out.with_name(out.name + ".run.json"), clock | {"runs_together": len(tasks)})
