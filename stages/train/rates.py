"""How fast a training went, and in how much memory: what varies from machine to machine, outside every digest."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.train.measure import peak_memory
from store.files import write_json


class Rates:
    """Time and memory of a training over all calls that worked on it, in a file beside its folder."""

    def __init__(self, path: Path, facts: Mapping[str, Any], positions: int, every: int, first: int) -> None:
        """Go on from the file if the run is at step `first`. `facts` are written with the numbers; a step has so many
        `positions`, and a row covers `every` steps."""
        self.path = path
        self.facts = facts
        self.positions = positions
        self.every = every
        before = _read(path) if first else {}
        self.rows: list[dict[str, float]] = [row for row in before.get("by_step", []) if row["steps"] <= first]
        """What every so many steps took, up to so many steps done."""
        self.steps = first
        """Steps done."""
        at_first = before.get("steps") == first
        self.seconds: float = before["seconds"] if at_first else sum(row["seconds"] for row in self.rows)
        """Time that they took; what was lost with a process that was killed does not count."""
        self._since = (0, 0.0)

    def add(self, seconds: float) -> None:
        """Count a step."""
        self.steps += 1
        self.seconds += seconds
        steps, since = self._since[0] + 1, self._since[1] + seconds
        if self.steps % self.every == 0:
            row = {"steps": self.steps, "seconds": round(since, 4)}
            row["positions_per_second"] = round(self.positions * steps / since)
            self.rows.append({**row, "memory_peak_bytes": peak_memory()})
            steps, since = 0, 0.0
        self._since = steps, since

    def write(self) -> None:
        """Replace the file."""
        summary = {
            **self.facts,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "steps": self.steps,
            "seconds": self.seconds,
            "positions_per_second": self.positions * self.steps / self.seconds if self.seconds else None,
            "memory_peak_bytes": peak_memory(),
        }
        write_json(self.path, {**summary, "by_step": self.rows})


def _read(path: Path) -> dict[str, Any]:
    """What an earlier call wrote; nothing where that cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = all({"steps", "seconds"} <= row.keys() for row in found["by_step"]) and "seconds" in found
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return found if whole else {}
