"""What a training and its evaluation left behind, as the report reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.replicates import Replicates, replicates_of
from stages.evaluate.results import Result, read_results
from stages.evaluate.trained_run import PLAN, TRAINING
from store.files import digest
from store.problem import Problem
from store.progress import SILENT, Progress

WORDS = ("name", "source", "reading", "reported")
"""Of a row, what no training depends on."""


@dataclass(frozen=True)
class Curve:
    """A metric over the course of a training."""

    step: np.ndarray
    """Steps, counted from 0."""
    value: np.ndarray
    """The metric at these steps."""


@dataclass(frozen=True)
class EvaluatedRun(Result):
    """One row of the report: an evaluation, and the log of its training."""

    label: str
    """What tables and figures call it: the name, without the seed where all runs have the same one."""
    group: str
    """What it shares with its other seeds: the variant, with what else tells runs of it apart."""
    curves: dict[str, Curve]
    """Logged metrics of the training by name, such as `loss/total`; empty where the log is not there."""

    def replicates(self, name: str) -> Replicates | None:
        """A number of the summary in resamples of the documents; None where the evaluation keeps none."""
        return self._replicates.get(name)

    @cached_property
    def _replicates(self) -> dict[str, Replicates]:
        return replicates_of(self)


def grouped(runs: Sequence[EvaluatedRun]) -> dict[str, list[EvaluatedRun]]:
    """Runs that differ in nothing but the seed, by the label of their group, in the order of the table."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return groups


def by_place(runs: Sequence[EvaluatedRun]) -> dict[str, list[EvaluatedRun]]:
    """The runs of each layer of each store, which alone share activations and documents, by what tells the places
    apart: nothing where there is one, else `layer 11 of store 1566d711`."""
    places: dict[tuple[int | None, str], list[EvaluatedRun]] = {}
    for run in runs:
        places.setdefault((run.setting.layer, run.setting.store), []).append(run)
    named = len(places) > 1
    return {f"layer {layer} of store {root[:8]}" if named else "": of for (layer, root), of in places.items()}


def read_runs(results: Path, runs: Path, progress: Progress = SILENT) -> list[EvaluatedRun]:
    """Every evaluated run below `results`, by name, with the training log below `runs`.

    A log of another training than the evaluated one is left out, which is said.

    Raises:
        Problem: nothing was evaluated, or a result cannot be read.
    """
    found = read_results(results, progress)
    if not found:
        raise Problem(
            "There is nothing to report on: no run was evaluated.",
            where=results,
            expected="a folder VARIANT/seedN with core.json and summary.json",
            do="run `pipeline evaluate` first",
        )
    one_seed = len({Path(result.name).name for result in found}) == 1
    return [
        EvaluatedRun(
            **{field.name: getattr(result, field.name) for field in fields(Result)},
            label=result.variant if one_seed else result.name,
            group=group,
            curves=_curves(result, runs / result.name, progress),
        )
        for result, group in zip(found, _groups(found), strict=True)
    ]


def _curves(result: Result, run: Path, progress: Progress) -> dict[str, Curve]:
    """The log of a run, if it is of the training that was evaluated."""
    logged = _fingerprint(run / TRAINING) or _fingerprint(run / PLAN)  # neither where the log alone was moved
    evaluated = result.facts["training"].get("fingerprint")
    if None not in (logged, evaluated) and logged != evaluated:
        progress.note(f"{result.name} was trained again since it was evaluated: its curves are left out")
        return {}
    return read_curves(run / "metrics" / "plots" / "metrics")


def _fingerprint(path: Path) -> str | None:
    """Of the training that wrote a file; None where that cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def _groups(results: Sequence[Result]) -> list[str]:
    """Name the group of each by its variant, and by as much of its training and store as tells groups of it apart."""
    traits = [_traits(result) for result in results]
    times = Counter((result.variant, result.seed, own) for result, own in zip(results, traits, strict=True))
    again = {(variant, own) for (variant, _, own), n in times.items() if n > 1}
    names = []
    for result, own in zip(results, traits, strict=True):
        kin = [each for other, each in zip(results, traits, strict=True) if other.variant == result.variant]
        differing = [trait for i, trait in enumerate(own) if len({each[i] for each in kin}) > 1]
        if (result.variant, own) in again:  # a seed that was trained twice, with other numbers or other code
            differing.append(Path(result.name).name)
        names.append(", ".join([result.variant, *differing]))
    return names


def _traits(result: Result) -> tuple[str, ...]:
    """What runs of a variant may differ in, beside the seed."""
    setting = result.setting
    return (
        f"{setting.steps:,.0f} steps",
        f"{setting.tokens_per_step} tokens a step",
        f"{setting.d_sae} latents",
        f"layer {setting.layer}",
        f"k {result.k}",
        f"L1 {result.row.get('objective', {}).get('l1')}",
        f"store {setting.store[:8]}",
        f"row {digest(_numbers_of(result.row))[:8]}",
    )


def _numbers_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row, what a training depends on and no trait of its own tells."""
    objective = {key: value for key, value in row.get("objective", {}).items() if key != "l1"}
    return {key: value for key, value in row.items() if key not in WORDS} | {"objective": objective}


def read_curves(folder: Path) -> dict[str, Curve]:
    """DVCLive's tables of `step` and value, by their path below `folder`."""
    curves = {}
    for path in sorted(folder.rglob("*.tsv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        step = header.split("\t").index("step")
        table = np.array([row.split("\t") for row in rows], dtype=np.float64).reshape(-1, 2)
        curves[path.relative_to(folder).with_suffix("").as_posix()] = Curve(table[:, step], table[:, 1 - step])
    return curves
