"""Tables of unlearning: how much is forgotten at which price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.evaluate.unlearned import KEPT, SPENT, Setting
from stages.report.cells import Cell, row, table
from stages.report.numeral import MISSING, listed, numeral, signed
from stages.report.unlearning import Comparable, Line

HEAD = (
    "Run",
    "Clamped for",
    "Score",
    *(f"Still answered, {kept:.0%} kept".replace("%", "\u00a0%") for kept in KEPT),
    *(f"Rise of its loss for {spent:g} nats" for spent in SPENT),
)
DIGITS = 3


def unlearning_tables(groups: Sequence[Comparable]) -> str:
    """A table a task: one row a run and window."""
    return "".join(_table(group) for group in groups)


def _table(group: Comparable) -> str:
    known, asked, known_others, asked_others = group.counts
    note = (
        f"Untouched, the language model knows {known:,} of {asked:,} questions on it and {known_others:,} of "
        f"{asked_others:,} others ({group.config['scoring']}). {_tried(group.config)}"
    )
    rows = [row(line.label, HEAD[1:], _cells(line), line.colour) for line in group.lines]
    body = f'<div class="scroll">{table("contrast probes", HEAD, rows)}</div>'
    return f'<h3>To be forgotten: {escape(group.forget_set)}</h3><p class="note">{note}</p>{body}'


def _tried(config: Mapping[str, Any]) -> str:
    """The settings of the sweep."""
    few, latents, strengths, windows = (
        listed([f"{value:g}" for value in config[name]])
        for name in ("retain_thresholds", "n_latents", "multipliers", "windows")
    )
    return (
        f"Tried were {latents} latents that fire on less than {few} of other text, clamped to minus {strengths} for "
        f"{windows} tokens."
    )


def _cells(line: Line) -> list[Cell]:
    sweep = line.sweep
    return [
        Cell(_duration(line.window)),
        Cell(numeral(line.score, DIGITS)),
        *(_answers(sweep.most_forgotten(kept)) for kept in KEPT),
        *(_rise(sweep.largest_rise(spent)) for spent in SPENT),
    ]


def _duration(window: int | None) -> str:
    if window is None:
        return MISSING
    return "1 token" if window == 1 else f"{window} tokens"


def _answers(setting: Setting | None) -> Cell:
    if setting is None:
        return Cell("no setting")
    error = setting["forget_accuracy_se"]
    return Cell(numeral(setting["forget_accuracy"], DIGITS), "" if error is None else f"± {numeral(error, DIGITS)}")


def _rise(rise: float | None) -> Cell:
    return Cell("no setting" if rise is None else signed(rise, DIGITS))
