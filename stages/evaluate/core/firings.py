"""How often latents fire, by each of the definitions in use."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Firings(NamedTuple):
    """By latent, the kept tokens at which it fires and the rows in which it does."""

    tokens: Float[Tensor, " d_sae"]
    """Tokens, as float64."""
    rows: Float[Tensor, " d_sae"]
    """Rows, as float64."""

    @classmethod
    def none(cls, d_sae: int) -> Firings:
        """Before the first batch."""
        return cls(torch.zeros(d_sae, dtype=torch.float64), torch.zeros(d_sae, dtype=torch.float64))

    @classmethod
    def of(cls, active: Bool[Tensor, "batch seq d_sae"], keep: Bool[Tensor, "batch seq"]) -> Firings:
        """Those of one batch."""
        fired = active & keep[..., None]
        return cls(fired.sum(dim=(0, 1)).double().cpu(), fired.any(dim=1).sum(dim=0).double().cpu())

    def plus(self, other: Firings) -> Firings:
        """Both together."""
        return Firings(self.tokens + other.tokens, self.rows + other.rows)

    @property
    def consistency(self) -> Float[Tensor, " d_sae"]:
        """Tokens a row that the latent fires in (`consistent_activation_heuristic`); NaN for one that never does."""
        return self.tokens / self.rows


class FiringsByDefinition(NamedTuple):
    """Firings as three definitions count them. They differ where codes are dense by construction or have a sign."""

    positive: Firings
    """Codes > 0: SAEBench's."""
    nonzero: Firings
    """Codes != 0: SAELens's."""
    events: Firings
    """Events > 0, what codes are made of: dead latents, lifetimes and the L0 at which runs are compared."""

    @classmethod
    def none(cls, d_sae: int) -> FiringsByDefinition:
        """Before the first batch."""
        return cls(*(Firings.none(d_sae) for _ in cls._fields))

    @classmethod
    def of(
        cls,
        codes: Float[Tensor, "batch seq d_sae"],
        events: Float[Tensor, "batch seq d_sae"],
        keep: Bool[Tensor, "batch seq"],
    ) -> FiringsByDefinition:
        """Those of one batch; definitions that agree on it are counted once."""
        positive = Firings.of(codes > 0, keep)
        signed = bool((codes < 0).any())
        return cls(
            positive,
            Firings.of(codes != 0, keep) if signed else positive,
            positive if events is codes else Firings.of(events > 0, keep),
        )

    def plus(self, other: FiringsByDefinition) -> FiringsByDefinition:
        """Both together."""
        return FiringsByDefinition(*(a.plus(b) for a, b in zip(self, other, strict=True)))
