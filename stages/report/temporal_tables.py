"""Tables of temporal metrics: what a temporal part bought, all nulls of every run, and which lags there were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.report.cells import Cell, row, table
from stages.report.contrast import Comparison, Contrast, Difference
from stages.report.evaluated_run import EvaluatedRun
from stages.report.metric import METRICS, SCALES
from stages.report.numeral import MISSING, give_or_take, numeral
from stages.report.palette import colours

MEASURES = {
    "codes": "codes",
    "codes_inputs_permuted": "inputs permuted",
    "codes_permuted": "codes permuted",
    "untrained": "untrained",
    "activations": "raw activations",
}
"""Of `temporal.json`, in the order of the lines of a cell, and what the table calls them."""

TOO_FEW = "too few"
"""Stands where too few pairs are within one document."""

MAIN = (
    *((f"TCS {scale}", ("tcs", scale)) for scale in SCALES),
    ("FSM support", ("fsm_support",)),
    ("FSM magnitude", ("fsm_magnitude",)),
    ("Slowness", ("slowness",)),
    ("Smoothness", ("smoothness",)),
)
FURTHER = (
    *((f"Firing TCS {scale}", ("tcs_binary", scale)) for scale in SCALES),
    *((f"Persistence {distance}", ("persistence", distance)) for distance in ("1", "4", "16", "64")),
)
"""Titles, and where a measure holds the number."""

BY_PAIRS = ("tcs", "tcs_binary", "persistence")
"""What has no number where too few pairs are within one document."""


def contrast_tables(comparisons: Sequence[Comparison]) -> str:
    """One table a temporal variant that has a control: a row a metric. Open where there is only one."""
    shown = [(comparison, main) for comparison in comparisons if (main := comparison.main)]
    opened = " open" if len(shown) == 1 else ""
    return "".join(
        f"<details{opened}><summary>{escape(comparison.variant)} and its controls in numbers</summary>"
        f'<div class="scroll">{_contrast_table(comparison, main)}</div></details>'
        for comparison, main in shown
    )


def temporal_table(runs: Sequence[EvaluatedRun], columns: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """One row a run that was measured; below every value its nulls and references."""
    lines = "".join(f"<small>{title}</small>" for title in MEASURES.values())
    rows = []
    for run in runs:
        if run.temporal is None:
            continue
        swatch = f'<span class="swatch" style="background:{colours(runs)[run.group]}"></span>'
        name = f'<th scope="rowgroup" colspan="{len(columns) + 1}"><span>{swatch}{escape(run.label)}</span></th>'
        cells = "".join(_stack(run.temporal["measures"], path) for _, path in columns)
        rows.append(f'<tr class="name">{name}</tr><tr><th scope="row">{lines}</th>{cells}</tr>')
    return f'<div class="scroll">{table("nulls", ["Run", *(title for title, _ in columns)], rows)}</div>'


def lags(runs: Sequence[EvaluatedRun]) -> str:
    """Which lags the scales used and how many pairs they had; runs that agree share a block."""
    blocks: dict[str, list[str]] = {}
    for run in runs:
        if run.temporal is not None:
            blocks.setdefault(_lags(run.temporal), []).append(run.label)
    named = len(blocks) > 1
    return "".join(
        (f"<h3>{escape(', '.join(labels))}</h3>" if named else "") + block for block, labels in blocks.items()
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
        cells = [_differing(contrast.differences[metric.name]) for contrast in found.values()]
        cells += [_valued(d, d.value, d.null), _valued(d, d.control, d.control_null)]
        rows.append(row(metric.title + (" (lower is smoother)" if metric.better < 0 else ""), head[1:], cells))
    return table("contrast", head, rows)


def _valued(d: Difference, value: float, null: float) -> Cell:
    digits = d.metric.digits
    return Cell(numeral(value, digits), f"null {numeral(null, digits)}" if math.isfinite(null) else "")


def _differing(d: Difference) -> Cell:
    seeds = f"n = {d.n}" if d.n > 1 else ""
    return Cell(
        give_or_take(d.mean, d.error, d.metric.digits), ", ".join(part for part in (_verdict(d), seeds) if part)
    )


def _verdict(d: Difference) -> str:
    if not math.isfinite(d.mean) or not d.metric.better:
        return ""
    if not d.known:
        return "no error known"
    if not d.clear:
        return "nothing within error"
    return ("bought" if d.improves else "lost") if d.metric.bought else ("gained" if d.improves else "cost")


def _stack(measures: Mapping[str, Any], path: Sequence[str]) -> str:
    lines = "".join(f"<small>{_entry(measures.get(name), path)}</small>" for name in MEASURES)
    return f"<td>{lines}</td>"


def _entry(measure: Mapping[str, Any] | None, path: Sequence[str]) -> str:
    value: Any = measure
    for key in path:
        if value is None:
            return MISSING
        value = value.get(key)
    if value is None or not math.isfinite(value):
        return TOO_FEW if path[0] in BY_PAIRS else MISSING
    return numeral(value, 4)


def _lags(temporal: Mapping[str, Any]) -> str:
    pairs = temporal["pairs"]
    head = ["Scale", "Lags", "Used", "Pairs a lag"]
    rows = []
    for scale, lags in temporal["scales"].items():
        low, high = lags["lags"]
        used = lags["used"]
        counts = f"{pairs[used[0] - 1]:,} at {used[0]} to {pairs[used[-1] - 1]:,} at {used[-1]}" if used else TOO_FEW
        cells = [Cell(f"{low} to {high}"), Cell(_ranges(used) or "none"), Cell(counts)]
        rows.append(row(scale, head[1:], cells))
    every = " · ".join(
        f"<span>{lag}: {f'{n:,}' if n >= temporal['min_pairs'] else f'{TOO_FEW} ({n:,})'}</span>"
        for lag, n in enumerate(pairs, start=1)
    )
    return (
        f'<div class="scroll">{table("numbers", head, rows)}</div>'
        f"<details><summary>Pairs of every lag</summary><p>{every}</p></details>"
    )


def _ranges(lags: Sequence[int]) -> str:
    """`1 to 4, 6`."""
    runs: list[list[int]] = []
    for lag in lags:
        if runs and lag == runs[-1][-1] + 1:
            runs[-1].append(lag)
        else:
            runs.append([lag])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
