"""Tables of probes: what few latents tell, beside an untrained SAE, all activations and the most frequent class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.evaluate.catalogue import PROBED
from stages.report.cells import Cell, row, table
from stages.report.evaluated_run import EvaluatedRun, by_place
from stages.report.numeral import numeral
from stages.report.palette import colours

DIGITS = 3


def has_probes(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether any run was probed."""
    return any(run.probing is not None for run in runs)


def tasks_of(run: EvaluatedRun) -> Mapping[str, Any]:
    """The tasks of a run's probes by name; empty for an evaluation without."""
    tasks: Mapping[str, Any] = (run.probing or {}).get("tasks", {})
    return tasks


def probing_tables(runs: Sequence[EvaluatedRun]) -> str:
    """A table a task: one row a run, a column for each number of latents, and what probes are set against."""
    return "".join(_task(task, title, runs) for task, title in PROBED.items())


def _task(task: str, title: str, runs: Sequence[EvaluatedRun]) -> str:
    asked = [(run, tasks_of(run)[task]) for run in runs if task in tasks_of(run)]
    if not asked:
        return ""
    answered = [found for _, found in asked if found["reason"] is None]
    first = (answered or [found for _, found in asked])[0]
    question = f"{first['definition'][0].upper()}{first['definition'][1:]}."
    told = [(run, found["scores"]) for run, found in asked if found["reason"] is None]
    if not told:
        return f'<h3>{title}</h3><p class="note">{escape(question)} Not asked: {escape(first["reason"])}.</p>'
    found = {run.name: tasks_of(run)[task] for run, _ in told}
    places = by_place([run for run, _ in told])
    tables = "".join(_table(place, members, found, colours(runs)) for place, members in places.items())
    return f'<h3>{title}</h3><p class="note">{escape(question)}</p>{tables}'


def _table(
    place: str, runs: Sequence[EvaluatedRun], found: Mapping[str, Mapping[str, Any]], palette: Mapping[str, str]
) -> str:
    """The runs of one place, which were asked the same of the same documents."""
    first = found[runs[0].name]
    size = f"{first['examples']:,} examples of {len(first['classes'])} classes in {first['documents']:,} documents"
    ks = sorted(map(int, first["scores"]["codes"]))
    head = ["Run", "L0", *(f"{k} a class" for k in ks), "All dimensions", "Most frequent"]
    rows = [row(run.label, head[1:], _cells(run, found[run.name]["scores"], ks), palette[run.group]) for run in runs]
    note = ": ".join(filter(None, (place.capitalize(), size)))
    return f'<p class="note">{note}.</p><div class="scroll">{table("contrast probes", head, rows)}</div>'


def _cells(run: EvaluatedRun, scores: Mapping[str, Any], ks: Sequence[int]) -> list[Cell]:
    probes = [_probe(scores["codes"][str(k)], scores["untrained"][str(k)]) for k in ks]
    dense, majority = (scores[signal]["all"]["accuracy"] for signal in ("activations", "majority"))
    others = [Cell(numeral(dense, DIGITS)), Cell(numeral(majority, DIGITS))]
    return [Cell(numeral(run.number("l0"), 1)), *probes, *others]


def _probe(trained: Mapping[str, float], untrained: Mapping[str, float]) -> Cell:
    accuracy, error = (numeral(trained[name], DIGITS) for name in ("accuracy", "accuracy_se"))
    return Cell(f"{accuracy} ± {error}", f"untrained {numeral(untrained['accuracy'], DIGITS)}")
