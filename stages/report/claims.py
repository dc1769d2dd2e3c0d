"""What the sources of variants reported, beside what came out here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.evaluate.catalogue import CATALOGUE
from stages.report.cells import Cell, row, table
from stages.report.evaluated_run import EvaluatedRun, grouped
from stages.report.metric import KL, L0, QUALITY, Metric
from stages.report.numeral import numeral
from stages.report.palette import colours

HEAD = ("Variant", "Reported by the write-up", "Steps here")
REPORTED = {
    "CE loss": Metric(CATALOGUE["ce_loss_with_sae"], bought=False, digits=4),
    "CE score": QUALITY[1],
    "KL score": KL,
}
"""What some sources report beside explained variance and L0, by the words that they use."""


def claims_table(runs: Sequence[EvaluatedRun]) -> str:
    """One row a variant whose source reported something, with means over its seeds; empty where none did."""
    groups = {
        group: members
        for group, members in grouped(runs).items()
        if members[0].row.get("reported") and "+" not in members[0].variant
    }
    said = " ".join(members[0].row["reported"] for members in groups.values())
    columns = {"Explained variance": QUALITY[0], "L0": L0}
    columns |= {words: metric for words, metric in REPORTED.items() if words in said}
    head = (*HEAD, *(f"{words} here" for words in columns))
    metrics = list(columns.values())
    rows = [row(group, head[1:], _cells(members, metrics), colours(runs)[group]) for group, members in groups.items()]
    return table("runs claims", head, rows) if rows else ""


def _cells(members: Sequence[EvaluatedRun], metrics: Sequence[Metric]) -> list[Cell]:
    said = members[0].row
    done, planned = (np.mean([run.number(name) for run in members]) for name in ("steps_done", "steps_planned"))
    steps = Cell(f"{numeral(float(done), 0)} of {numeral(float(planned), 0)}")
    return [Cell(said["reported"], said["source"]), steps, *(_mean(members, metric) for metric in metrics)]


def _mean(members: Sequence[EvaluatedRun], metric: Metric) -> Cell:
    return Cell(numeral(float(np.mean([run.number(metric.name) for run in members])), metric.digits))
