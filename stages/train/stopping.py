"""Early stopping: a training ends when its loss on held-out windows no longer falls."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.sae.training_row import StoppingRow


class Stopping:
    """The rule of a row, and how far it has come; without a row training never ends early."""

    def __init__(self, row: StoppingRow | None, schedules_end: int) -> None:
        """`schedules_end` is the step at which all schedules are over: no look comes before it."""
        self.row = row
        self.begins = max(row.not_before, schedules_end) if row else 0
        """Steps that are done in any case."""
        self.best = float("inf")
        """Smallest loss on held-out windows so far."""
        self.waited = 0
        """Looks since then."""

    @property
    def now(self) -> bool:
        """Whether training is over."""
        return self.row is not None and self.waited >= self.row.patience

    @property
    def rule(self) -> str:
        """The rule for a person to read."""
        assert self.row is not None
        return (
            f"no smaller held-out reconstruction loss in {self.row.patience} looks, {self.row.every} steps apart, "
            f"after step {self.begins}"
        )

    def due(self, done: int) -> bool:
        """Whether to look after so many steps."""
        return self.row is not None and done % self.row.every == 0 and done >= self.begins

    def look(self, loss: float) -> None:
        """Take in the loss on held-out windows."""
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint; empty without a row."""
        if self.row is None:
            return {}
        return {"best": torch.tensor(self.best, dtype=torch.float64), "waited": torch.tensor(self.waited)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        if self.row is not None:
            self.best, self.waited = float(state["best"]), int(state["waited"])
