"""Evaluate SAEs on a text as SAEBench does, without an activation store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.batches import Batches
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.core.document import Core, Material, Reading, model_facts
from stages.evaluate.core.splicing import reconstruction
from stages.evaluate.core.variance import sparsity_variance
from stages.evaluate.foreign import read_without_store
from stages.evaluate.output import EvaluationResult
from stages.evaluate.subject import Subject
from stages.evaluate.task import Task, together
from stages.evaluate.text import PackedText
from stages.evaluate.versions import CORE, fingerprint
from stages.language_model import corpus
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import dtype_of, identity, load
from stages.language_model.source import resolve
from store.progress import SILENT, Progress

TOLD = " with documents"
"""Added to the name of a temporal SAE that is told where documents are."""


def evaluate_on_text(
    runs: Sequence[tuple[Path, Path]],
    text: CorpusConfig,
    context: int,
    lm_config: ModelConfig,
    config: EvaluateConfig,
    *,
    progress: Progress = SILENT,
) -> list[EvaluationResult]:
    """Measure SAEBench's core metrics on a text, packed as SAEBench packs it, in its order.

    SAEs are given rows as SAEBench gives them, each as one document with BOS at position 0. Those that use the order of
    tokens are measured a second time with the documents that there are; `with_documents` names these numbers.
    Temporal metrics and probes need heldout documents of a store, and are not measured.

    Args:
        runs: pairs of what to evaluate, as `evaluate` takes them, and the folder that receives `core-<digits>.json`
            and `summary-<digits>.json`, the digits those of the evaluation's fingerprint.
        context: positions of a row.

    Raises:
        Problem: an SAE that cannot be read, or of another language model; text that gives too few full rows.
    """
    decided: dict[str, Any] = {
        "text": corpus.identity(text),
        "limit": text.tokens,
        "model": identity(resolve(lm_config, progress)),
        "model_dtype": str(dtype_of(lm_config)),
        "context": context,
        "config": asdict(config),
    }
    tasks = [_prepare(read_without_store(path), out, decided) for path, out in runs]
    waiting = [task for task in tasks if task.missing]
    if waiting:
        lm = load(lm_config, progress)
        for task in waiting:
            task.subject.check_model(lm)
        packed = PackedText.pack(lm, {task.subject.layer for task in waiting}, text, context)
        batches = Batches.in_order(np.arange(len(packed)), config)
        facts = {"text": {**decided["text"], "rows": len(packed)}}
        material = Material(str(decided["text"]["source"]), context, batches, model_facts(lm), facts)
        for group in together(waiting):
            _evaluate_together(group, packed, material, progress)
    return [task.result() for task in tasks]


def _prepare(subject: Subject, out: Path, decided: Mapping[str, Any]) -> Task:
    everything = {**decided, "run": subject.identity}
    return Task.prepare(out, subject, everything, [CORE], suffix=f"-{fingerprint(CORE, everything)[:8]}")


def _evaluate_together(tasks: Sequence[Task], packed: PackedText, material: Material, progress: Progress) -> None:
    """Measure SAEs of one layer and write their results."""
    layer = tasks[0].subject.layer
    saes = {task.key: task.subject.load_for(material.context).to(packed.lm.device) for task in tasks}
    told = {key + TOLD: sae for key, sae in saes.items() if sae.row.ordered}
    both, batches = {**saes, **told}, material.batches
    levels = {task.key: task.subject.levels for task in tasks}
    variances = sparsity_variance(both, packed, layer, batches.variance, progress, levels, without_documents=saes)
    splicings = reconstruction(both, packed.splices[layer], packed, batches.reconstruction, progress, saes)
    readings = {key: Reading(variances[key], splicings[key]) for key in both}
    for task in tasks:
        key = task.key
        core = Core(task.subject, saes[key], task.decided, material, readings[key], readings.get(key + TOLD))
        task.write({CORE: core})
