"""Unlearnings that can be compared, as tables and figures show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.evaluate.unlearned import RMU, Sweep, Unlearned
from stages.report.evaluated_run import EvaluatedRun
from stages.report.palette import INK, colours


class Line(NamedTuple):
    """The settings of one run and one window: a line of a table, a series of a figure."""

    label: str
    """Of the run, or `RMU`."""
    colour: str
    """Of the run's group."""
    window: int | None
    """Tokens for which a latent stays clamped; None where nothing is clamped."""
    score: float
    """SAEBench's."""
    sweep: Sweep
    """What was tried."""


class Comparable(NamedTuple):
    """Unlearnings of one task."""

    name: str
    """Digits of the task."""
    forget_set: str
    """The questions on what is to be forgotten."""
    counts: tuple[int, int, int, int]
    """Known ones and all of these, known ones and all of the others."""
    config: Mapping[str, Any]
    """What was asked."""
    lines: list[Line]
    """In the order of the runs, RMU last."""


def comparable(runs: Sequence[EvaluatedRun], rmu: Mapping[str, Sequence[Unlearned]]) -> list[Comparable]:
    """All unlearnings, grouped by task: what was to be forgotten, by which model, and what was tried."""
    found = [(run.label, colours(runs)[run.group], each) for run in runs for each in run.unlearned]
    layers = {each.ids[1] for of in rmu.values() for each in of}
    found += [(_rmu_label(each, len(layers) > 1), INK, each) for of in rmu.values() for each in of]
    grouped: dict[str, list[tuple[str, str, Unlearned]]] = {}
    for subject in sorted(found, key=lambda subject: not subject[-1].own):
        grouped.setdefault(subject[-1].task, []).append(subject)
    return [_comparable(task, subjects) for task, subjects in grouped.items()]


def _rmu_label(unlearned: Unlearned, named: bool) -> str:
    """`RMU`, with its layer where there are several."""
    return f"{RMU.upper()}, {unlearned.ids[1]}" if named else RMU.upper()


def _comparable(task: str, subjects: Sequence[tuple[str, str, Unlearned]]) -> Comparable:
    material = subjects[0][-1].material
    own = material["questions"][material["forget_set"]]
    known, asked = (sum(each[key] for each in material["questions"].values()) for key in ("known", "questions"))
    counts = (own["known"], own["questions"], known - own["known"], asked - own["questions"])
    lines = [
        Line(label, colour, window if unlearned.run else None, score, unlearned.sweep.of(window))
        for label, colour, unlearned in subjects
        for window, score in unlearned.scores.items()
    ]
    return Comparable(task[:8], material["forget_set"], counts, subjects[0][-1].config, lines)
