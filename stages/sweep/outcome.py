"""What a cell came to: numbers of a trained and evaluated SAE, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.evaluate.levels import SILENT_L0, levels_of
from stages.evaluate.temporal.consistency import SCALES
from stages.sweep.cells import Cell
from stages.train.guards import LARGEST_DEAD_SHARE, Collapse

METRICS = (
    "explained_variance_centred",
    "l0",
    "dead_latents",
    "ce_loss_score",
    *(f"tcs_{scale}{suffix}" for scale in SCALES for suffix in ("", "_se", "_inputs_permuted")),
)
"""Numbers of a summary that experiments carry."""


@dataclass(frozen=True)
class Outcome:
    """One cell as a row of the sweep's table."""

    cell: Cell
    """What was asked."""
    fingerprint: str
    """That of its training."""
    steps_done: int
    """Fewer than planned where a guard or an early stop ended it."""
    collapsed: str | None
    """Why its SAE is of no use; None for one that works."""
    ended: str | None
    """The whole message of the guard that ended it; None for one that was evaluated."""
    summary: Mapping[str, float | int | None]
    """The numbers of its evaluation on heldout documents; empty where a guard ended it."""

    @classmethod
    def of_summary(cls, cell: Cell, fingerprint: str, summary: Mapping[str, float | int | None]) -> Outcome:
        """That of a cell that was trained to its end and evaluated."""
        return cls(cell, fingerprint, int(summary["steps_done"] or 0), collapse_in(summary), None, summary)

    @classmethod
    def of_collapse(cls, cell: Cell, fingerprint: str, collapse: Collapse) -> Outcome:
        """That of a cell that a guard ended."""
        return cls(cell, fingerprint, collapse.step, collapse.symptom, str(collapse), {})

    @property
    def parameters(self) -> dict[str, Any]:
        """What tells it from the other cells."""
        config = self.cell.config
        return {
            "variant": config.variant.name,
            "axes": dict(self.cell.axes),
            "seed": config.seed,
            "steps": config.steps,
        }

    @property
    def metrics(self) -> dict[str, Any]:
        """Its numbers for experiments, as far as they exist; what collapsed says so."""
        numbers = {name: self.summary[name] for name in METRICS if self.summary.get(name) is not None}
        return {**numbers, "steps_done": self.steps_done, "collapsed": self.collapsed or "no"}

    @property
    def document(self) -> dict[str, Any]:
        """All of it, for the file of the sweep."""
        return {
            "cell": self.cell.name,
            **self.parameters,
            "fingerprint": self.fingerprint,
            "steps_done": self.steps_done,
            "collapsed": self.collapsed,
            "ended": self.ended,
            "summary": dict(self.summary) or None,
        }


def collapse_in(summary: Mapping[str, float | int | None]) -> str | None:
    """What makes an evaluated SAE one that codes nothing, or nothing of use; None where nothing does."""
    l0, explained, dead, latents = (
        math.nan if (value := summary[name]) is None else float(value)
        for name in ("l0", "explained_variance_centred", "dead_latents", "latents")
    )
    if not l0 >= SILENT_L0:
        return f"a token activates {l0:.3g} latents"
    if not explained > 0:
        return f"it explains {explained:.3g} of the variance, less than the mean does"
    if dead > LARGEST_DEAD_SHARE * latents:
        return f"{dead / latents:.0%} of the latents are dead"
    silent = [level for level in levels_of(summary) if level.collapsed]
    return f"{silent[0].title} has L0 {silent[0].l0:.3g} and {silent[0].alive:.0%} alive" if silent else None
