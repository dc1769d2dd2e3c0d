"""What a person sees: progress on stderr, results on stdout, one message for a mistake."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

err = Console(stderr=True, soft_wrap=True, highlight=False)

UNBOUNDED = 1000
"""Width of a table that goes to a file or another program: nothing is folded."""

LINE_EVERY = 15.0
"""Seconds between progress lines where stderr is no terminal."""


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def quantity(amount: float, unit: str) -> str:
    """`64,123 tokens`, `0.25 steps`; bytes (unit `B`) as `1.3 GB`."""
    if unit == "B":
        return decimal(round(amount))
    return f"{amount:,.0f} {unit}" if amount >= 10 or amount == round(amount) else f"{amount:.2g} {unit}"


def done_of(done: float, total: float | None, unit: str) -> str:
    """`135 of 4,000 steps`; without a known total `135 steps`."""
    text = quantity(done, unit)
    return f"{text.removesuffix(f' {unit}')} of {quantity(total, unit)}" if total else text


class _Done(ProgressColumn):
    """How much of a task is done."""

    def render(self, task: Task) -> Text:
        return Text(done_of(task.completed, task.total, task.fields["unit"]), style="green")


class _Rate(ProgressColumn):
    """Speed of a task, since it started here and not since an earlier run began it."""

    def render(self, task: Task) -> Text:
        return Text(f"{quantity(task.speed, task.fields['unit'])}/s" if task.speed else "", style="cyan")


class BarProgress:
    """Progress as a bar with rate and time left, for a terminal."""

    def __init__(self) -> None:
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=10),
            _Done(),
            _Rate(),
            TimeRemainingColumn(),
            console=err,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(task, total=total or None, completed=done, unit=unit)

    def advance(self, amount: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def note(self, line: str) -> None:
        self._bars.console.print(Text(printable(line)))


class LineProgress:
    """Progress as plain lines, for logs and DVC. The rate is that since the line before."""

    def __init__(self) -> None:
        self._task, self._unit, self._total, self._done = "", "", 0, 0
        self._last, self._done_at_last = time.monotonic(), 0

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None: ...

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self._task, self._unit, self._total, self._done = task, unit, total, done
        self._last, self._done_at_last = time.monotonic(), done

    def advance(self, amount: int) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last < LINE_EVERY:
            return
        rate = (self._done - self._done_at_last) / (now - self._last)
        self._last, self._done_at_last = now, self._done
        line = f"{self._task}: {done_of(self._done, self._total, self._unit)}"
        if self._total:
            line += f" ({self._done / self._total:.0%})"
        line += f", {quantity(rate, self._unit)}/s"
        if self._total and rate:
            line += f", {duration((self._total - self._done) / rate)} left"
        self.note(line)

    def note(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


def progress() -> BarProgress | LineProgress:
    """A bar where stderr is a terminal, else lines. Use as a context manager."""
    return BarProgress() if err.is_terminal else LineProgress()


def printable(text: str) -> str:
    """`text` with control characters as escapes: what comes from elsewhere must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def print_json(value: Any) -> None:
    """One JSON document on stdout and nothing else."""
    print(printable(json.dumps(value, indent=2, ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """A plain table; the columns named in `right` are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(printable(str(cell))) for cell in row])
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table)


def print_facts(facts: dict[str, object]) -> None:
    """Names and values, one a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(printable(f"{name:<{width}}  {value}"))
