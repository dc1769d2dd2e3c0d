"""Tables of temporal metrics: all nulls of every run, and which lags there were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from stages.evaluate.catalogue import CATALOGUE
from stages.evaluate.comparison import gain_of
from stages.evaluate.definition import Definition
from stages.evaluate.temporal.catalogue import CONSISTENCY, KINDS, LIFETIMES, TRANSITIONS
from stages.evaluate.temporal.consistency import SCALES
from stages.report.cells import Cell, row, table
from stages.report.evaluated_run import EvaluatedRun
from stages.report.numeral import MISSING, give_or_take, numeral, plus_or_minus
from stages.report.palette import colours

MEASURES = {
    "codes": "codes",
    "codes_inputs_permuted": "inputs permuted",
    "codes_permuted": "codes permuted",
    "untrained": "untrained",
    "activations": "raw activations",
}
"""Of `temporal.json`, in the order of the lines of a cell, and what the table calls them."""

DIGITS = {"tokens": 2, "latents": 0, "pairs of latents": 0}
"""After the decimal point, by unit; 4 in others."""

TOO_FEW = "too few"
"""Stands where too few pairs are within one document."""

MAIN = tuple(CATALOGUE[f"tcs_{scale}"] for scale in SCALES) + tuple(
    CATALOGUE[name] for name in ("fsm_support", "fsm_magnitude", "slowness", "smoothness")
)
FURTHER = tuple(each for each in CONSISTENCY if each not in MAIN)
"""Metrics of consistency, by how often they are asked for."""
PATTERNS = (*LIFETIMES, *TRANSITIONS, *KINDS)
"""Metrics of patterns of activation."""

BY_PAIRS = ("tcs", "tcs_binary", "persistence")
"""What has no number where too few pairs are within one document."""


def has_patterns(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether patterns of activation were measured on any run."""
    measures = (run.temporal["measures"].get("codes") for run in runs if run.temporal is not None)
    return any(measure and "patterns" in measure for measure in measures)


def temporal_table(runs: Sequence[EvaluatedRun], columns: Sequence[Definition]) -> str:
    """One row a run that was measured; below every value those nulls and references that there are, and the gain."""
    measured = [run for run in runs if run.temporal is not None]
    shown = [name for name in MEASURES if name == "codes" or _anywhere(name, columns, map(_measures, measured))]
    lines = "".join(f"<small>{title}</small>" for title in (*(MEASURES[name] for name in shown), "gain"))
    rows = []
    for run in measured:
        swatch = f'<span class="swatch" style="background:{colours(runs)[run.group]}"></span>'
        name = f'<th scope="rowgroup" colspan="{len(columns) + 1}"><span>{swatch}{escape(run.label)}</span></th>'
        cells = "".join(_stack(run, each, shown) for each in columns)
        rows.append(f'<tr class="name">{name}</tr><tr><th scope="row">{lines}</th>{cells}</tr>')
    return f'<div class="scroll">{table("nulls", ["Run", *map(_head, columns)], rows)}</div>'


def _head(definition: Definition) -> str:
    """`Lifetime (tokens)`."""
    return definition.title if definition.unit == "1" else f"{definition.title} ({definition.unit})"


def _anywhere(name: str, columns: Sequence[Definition], measured: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a measure has a number in any column of any run."""
    return any(each.at(measures.get(name)) is not None for measures in measured for each in columns)


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


def _measures(run: EvaluatedRun) -> Mapping[str, Any]:
    measures: dict[str, Any] = run.temporal["measures"] if run.temporal else {}
    return measures


def _stack(run: EvaluatedRun, definition: Definition, shown: Sequence[str]) -> str:
    """The numbers of the measures, codes first, and the gain; that of the codes and the gain with standard errors."""
    digits, measures = DIGITS.get(definition.unit, 4), _measures(run)
    codes, *others = [_entry(definition.at(measures.get(name)), definition, digits) for name in shown]
    gain = gain_of(measures, definition)
    error, gain_error = (run.number(f"{definition.name}{suffix}") for suffix in ("_se", "_gain_se"))
    entries = [
        codes if codes in (TOO_FEW, MISSING) else codes + plus_or_minus(error, digits),
        *others,
        MISSING if gain is None else give_or_take(gain, gain_error, digits),
    ]
    return f"<td>{''.join(f'<small>{entry}</small>' for entry in entries)}</td>"


def _entry(value: float | None, definition: Definition, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return TOO_FEW if definition.path[0] in BY_PAIRS else MISSING
    return numeral(value, digits)


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
