"""Pruning: latents that fire too rarely are silenced at given steps."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from stages.sae.codes import Codes
from stages.sae.model import SAE
from stages.sae.objective_row import PruningRow


class Pruning:
    """Counts firings and silences what fired too rarely since it last looked; does nothing without a row."""

    def __init__(self, row: PruningRow | None, sae: SAE, steps: int) -> None:
        self.row = row
        self.sae = sae
        self.at = {max(round(share * steps), 1) - 1 for share in row.at} if row else set()
        """Steps after which latents go."""
        self.firings = torch.zeros_like(sae.pruned, dtype=torch.int64)
        self.tokens = 0
        """Kept tokens, and how often each latent fired at them, since latents last went."""

    def count(self, events: Codes, keep: Bool[Tensor, "batch seq"], n_kept: int) -> None:
        """Take in a batch."""
        if self.row is not None:
            self.firings += events.firings(keep)
            self.tokens += n_kept

    def after(self, step: int) -> None:
        """Silence rare latents if a step is one of those that end with it."""
        if self.row is None or step not in self.at:
            return
        self.sae.pruned |= self.firings < self.row.density * self.tokens
        self.firings.zero_()
        self.tokens = 0

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint; empty without a row."""
        if self.row is None:
            return {}
        return {"pruned": self.sae.pruned, "firings": self.firings, "tokens": torch.tensor(self.tokens)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        if self.row is not None:
            self.sae.pruned.copy_(state["pruned"])
            self.firings.copy_(state["firings"])
            self.tokens = int(state["tokens"])
