"""Evaluate trained runs, and SAEs that others saved, on the heldout rows of a store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from stages.evaluate.batches import Batches
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.core.document import Core, Material, Reading
from stages.evaluate.core.splicing import reconstruction
from stages.evaluate.core.variance import sparsity_variance
from stages.evaluate.foreign import read_subject
from stages.evaluate.output import EvaluationResult
from stages.evaluate.probing.part_of_speech import tagger_version
from stages.evaluate.probing.run import probe
from stages.evaluate.task import Part, Task, together
from stages.evaluate.temporal.run import temporal
from stages.evaluate.temporal.sentences import SentenceEnds
from stages.evaluate.versions import CORE, PROBING, TEMPORAL, VERSIONS
from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel, dtype_of
from stages.language_model.model import load as load_language_model
from stages.language_model.splice import Splice
from stages.memory import keep_freed_memory
from store import ActivationStore
from store import open as open_store
from store.files import write_json
from store.problem import Problem
from store.progress import SILENT, Progress


def evaluate(
    runs: Sequence[tuple[Path, Path]],
    store: str | Path,
    lm_config: ModelConfig,
    config: EvaluateConfig | None = None,
    *,
    progress: Progress = SILENT,
) -> list[EvaluationResult]:
    """Evaluate runs of one store, a few together: they share the clean and the ablated pass of the language model.

    Files that are there already, by fingerprint, are not measured again: an evaluation that was killed goes on with the
    runs that have none.

    Args:
        runs: pairs of what to evaluate (a training's folder, a folder that SAELens saved, or Gemma Scope's
            `params.npz`) and the folder that receives `core.json` (SAEBench's schema), `temporal.json` (temporal
            metrics, their nulls and references), `probing.json` (probes of few latents) and `summary.json` (flat
            numbers).
        store: the activation store that all of them were trained on, or one of their model and layer.
        lm_config: the language model that made the store.

    Raises:
        Problem: an unfinished or damaged run, a run of another store, a damaged store or one without heldout
            documents, a language model other than the store's.
    """
    opened = open_store(store)
    config = config or EvaluateConfig()
    tasks = [_prepare(folder, out, opened, lm_config, config) for folder, out in runs]
    batches = Batches.divide(opened.rows("heldout"), config)
    waiting = [task for task in tasks if task.missing]
    if waiting:
        opened.check(progress)
        keep_freed_memory()
        lm = load_language_model(lm_config, progress)
        check_model(opened, lm.name, lm.identity)
        for group in together(waiting):
            _evaluate_together(group, lm, opened, batches, progress)
    return [task.result() for task in tasks]


def _prepare(folder: Path, out: Path, store: ActivationStore, lm_config: ModelConfig, config: EvaluateConfig) -> Task:
    """Read and check a run, and see which of its results are there."""
    subject = read_subject(folder, store)
    decided = {
        "tagger": tagger_version(),
        "run": subject.identity,
        "store": store.root,
        "model_dtype": str(dtype_of(lm_config)),
        "config": asdict(config),
    }
    return Task.prepare(out, subject, decided, tuple(VERSIONS))


def check_model(store: ActivationStore, name: str, identity: Mapping[str, str]) -> None:
    """A Problem unless a model of this identity (weights, tokenizer, configuration) is the very one of the store."""
    recorded = store.request.get("model")
    if not isinstance(recorded, dict) or "name" not in recorded:
        raise Problem(
            "This activation store does not say of which language model it is.",
            where=store.path,
            expected="a store that `pipeline harvest` wrote: cross-entropy is measured with its model",
            do="choose another store with --store",
        )
    different = [file for file, value in identity.items() if recorded.get(file) != value]
    if different:
        raise Problem(
            "This language model is not the one that made the activation store.",
            where=store.path,
            expected=", ".join([str(recorded["name"]), *(f"{file} {recorded.get(file)}" for file in different)]),
            found=", ".join([name, *(f"{file} {identity[file]}" for file in different)]),
            do="evaluate with the store's model (--model), or choose the store of this one (--store)",
        )


def _evaluate_together(
    tasks: Sequence[Task], lm: LanguageModel, store: ActivationStore, batches: Batches, progress: Progress
) -> None:
    """Measure what some runs of one layer lack and write it."""
    begun, layer = time.monotonic(), tasks[0].subject.layer
    device = next(lm.model.parameters()).device
    saes = {task.key: task.subject.load_for(store.context).to(device) for task in tasks}
    levels = {task.key: task.subject.levels for task in tasks}
    variances = sparsity_variance(saes, store, layer, batches.variance, progress, levels)
    blueprints = {
        task.key: task.subject.blueprint(saes[task.key], variances[task.key].scalars["l0_events"]) for task in tasks
    }
    lacking = {name: {task.key: saes[task.key] for task in tasks if name in task.missing} for name in VERSIONS}
    found: dict[str, Mapping[str, Part]] = {}
    if few := lacking[TEMPORAL]:
        firings = {key: variances[key].firings.events.tokens for key in few}
        ends = SentenceEnds(lm.tokenizer)
        found[TEMPORAL] = temporal(few, blueprints, firings, store, layer, batches.variance, progress, levels, ends)
    if few := lacking[PROBING]:
        found[PROBING] = probe(few, blueprints, store, layer, lm.tokenizer, batches, progress)
    if few := lacking[CORE]:
        splicings = reconstruction(few, Splice(lm, layer), store, batches.reconstruction, progress)
        material = Material.of_store(store, batches, lm)
        found[CORE] = {
            task.key: Core(
                task.subject,
                saes[task.key],
                task.decided,
                material,
                Reading(variances[task.key], splicings[task.key]),
            )
            for task in tasks
            if task.key in few
        }
    seconds = round(time.monotonic() - begun, 1)
    for task in tasks:
        task.write({name: parts[task.key] for name, parts in found.items() if task.key in parts})
        clock = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": seconds}
        write_json(task.out.with_name(task.out.name + ".run.json"), clock | {"runs_together": len(tasks)})
