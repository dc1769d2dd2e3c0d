"""How long work reports itself without knowing who listens.

Stages and the store call a `Progress`; the command line passes one that draws bars, tests and
library users pass `SILENT`.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A listener to long work. One task runs at a time."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        """A task of `total` `unit`s begins, `done` of which an earlier run already did."""

    def advance(self, amount: int) -> None:
        """`amount` more units of the current task are done."""

    def note(self, line: str) -> None:
        """One line a person should see."""


class _Silent:
    def start(self, task: str, total: int, unit: str, done: int = 0) -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, line: str) -> None: ...


SILENT: Progress = _Silent()
