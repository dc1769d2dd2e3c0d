"""Tables of differences: variants beside their controls, and beside per-token SAEs that are as sparse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from stages.report.cells import Cell, row, table
from stages.report.contrast import Comparison, Contrast, Difference
from stages.report.matched import Matched
from stages.report.metric import METRICS, Metric
from stages.report.numeral import MISSING, give_or_take, numeral, signed
from stages.report.verdict import at_equal_sparsity


def contrast_tables(comparisons: Sequence[Comparison]) -> str:
    """One table a temporal variant that has a control: a row a metric. Open where there is only one."""
    shown = [(comparison, main) for comparison in comparisons if (main := comparison.main)]
    opened = " open" if len(shown) == 1 else ""
    return "".join(
        f"<details{opened}><summary>{escape(comparison.variant)} and its controls in numbers</summary>"
        f'<div class="scroll">{_contrast_table(comparison, main)}</div></details>'
        for comparison, main in shown
    )


def matched_tables(compared: Sequence[Matched]) -> str:
    """One table a temporal variant that has per-token SAEs as sparse: a row a metric. Open where there is only one."""
    shown = [each for each in compared if each.contrasts]
    opened = " open" if len(shown) == 1 else ""
    return "".join(
        f"<details{opened}><summary>{escape(each.variant)} and per-token SAEs in numbers</summary>"
        f'<p>{escape(at_equal_sparsity(each))}</p><div class="scroll">{_matched_table(each)}</div></details>'
        for each in shown
    )


def _contrast_table(comparison: Comparison, main: Contrast) -> str:
    contrasts = {
        "What the temporal part bought": comparison.bought,
        "What it bought in permuted order": comparison.permuted,
        "What token order is worth": comparison.order,
    }
    found = {title: contrast for title, contrast in contrasts.items() if contrast}
    head = ["Metric", *found, comparison.variant, main.control]
    rows = []
    for metric in METRICS:
        d = main.differences[metric.name]
        if not d.n:
            continue
        words = ("bought", "lost") if metric.bought else ("gained", "cost")
        cells = [_differing(contrast.differences[metric.name], *words) for contrast in found.values()]
        cells += [_valued(d, d.value, d.null), _valued(d, d.control, d.control_null)]
        rows.append(row(_title(metric), head[1:], cells))
    return table("contrast", head, rows)


def _valued(d: Difference, value: float, null: float) -> Cell:
    digits = d.metric.digits
    return Cell(numeral(value, digits), f"null {numeral(null, digits)}" if math.isfinite(null) else "")


def _differing(d: Difference, better: str, worse: str) -> Cell:
    seeds = f"n = {d.n}" if d.n > 1 else ""
    small = ", ".join(part for part in (_judged(d, better, worse), seeds) if part)
    return Cell(give_or_take(d.mean, d.error, d.digits), small)


def _judged(d: Difference, better: str, worse: str) -> str:
    if not math.isfinite(d.mean) or not d.metric.better:
        return ""
    if not d.known:
        return "no error known"
    if not d.clear:
        return "nothing within error"
    return better if d.improves else worse


def _matched_table(matched: Matched) -> str:
    head = ["Metric", "Difference", "95 % interval", matched.variant, "Per-token SAE"]
    rows = []
    for contrast, d in matched.differences:
        l0 = contrast.differences["l0"].control
        cells = [
            _differing(d, "better", "worse"),
            Cell(_interval(d)),
            Cell(numeral(d.value, d.metric.digits)),
            Cell(numeral(d.control, d.metric.digits), f"{contrast.control}, L0 {numeral(l0, 1)}"),
        ]
        rows.append(row(_title(d.metric), head[1:], cells))
    return table("contrast", head, rows)


def _interval(d: Difference) -> str:
    if not d.known:
        return MISSING
    low, high = (signed(d.mean + side * d.half_width, d.digits) for side in (-1, 1))
    return f"{low} to {high}"


def _title(metric: Metric) -> str:
    return metric.title + (" (lower is smoother)" if metric.better < 0 else "")
