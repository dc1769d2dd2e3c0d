"""What the sources of variants reported, beside what came out here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.report.cells import Cell, row, table
from stages.report.evaluated_run import EvaluatedRun, grouped
from stages.report.metric import L0, QUALITY, Metric
from stages.report.numeral import numeral
from stages.report.palette import colours

HEAD = ("Variant", "Reported by the write-up", "Steps here", "Explained variance here", "L0 here")


def claims_table(runs: Sequence[EvaluatedRun]) -> str:
    """One row a variant whose source reported something, with means over its seeds; empty where none did."""
    rows = [
        row(group, HEAD[1:], _cells(members), colours(runs)[group])
        for group, members in grouped(runs).items()
        if members[0].row.get("reported") and "+" not in members[0].variant
    ]
    return table("runs claims", HEAD, rows) if rows else ""


def _cells(members: Sequence[EvaluatedRun]) -> list[Cell]:
    said = members[0].row
    done, planned = (np.mean([run.number(name) for run in members]) for name in ("steps_done", "steps_planned"))
    steps = Cell(f"{numeral(float(done), 0)} of {numeral(float(planned), 0)}")
    return [Cell(said["reported"], said["source"]), steps, _mean(members, QUALITY[0]), _mean(members, L0)]


def _mean(members: Sequence[EvaluatedRun], metric: Metric) -> Cell:
    return Cell(numeral(float(np.mean([run.number(metric.name) for run in members])), metric.digits))
