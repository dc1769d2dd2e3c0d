"""What is known of a metric beside its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BETTER = {1: "higher", 0: "neither", -1: "lower"}
"""Which way is better, in words."""


@dataclass(frozen=True)
class Definition:
    """A metric."""

    name: str
    """In tables of numbers, and in `summary.json` where that has it."""
    title: str
    """What people call it."""
    unit: str
    """Of its value; 1 where it has none."""
    better: int
    """1 where more is better, -1 where less is, 0 where a number only says what the others are worth."""
    text: str
    """What it is, in one sentence. Metrics of a family share it."""
    reading: str = ""
    """What to keep in mind."""
    path: tuple[str | int, ...] = ()
    """Where a measure of `temporal.json` holds it; empty for a number of `summary.json`."""

    def at(self, measure: Mapping[str, Any] | None) -> float | None:
        """Its number in a measure of `temporal.json`; None where a measure, or an older file, does not have it."""
        found: Any = measure
        for key in self.path:
            if isinstance(key, int):
                found = found[key] if found and key < len(found) else None
            else:
                found = None if found is None else found.get(key)
        number: float | None = found
        return number
