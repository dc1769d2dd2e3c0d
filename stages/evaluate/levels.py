"""The levels of a Matryoshka SAE, as the summary of an evaluation has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

SILENT_L0, SILENT_ALIVE = 1.0, 0.2
"""Active latents a token, and share of latents alive, below which a level has collapsed."""


class Level(NamedTuple):
    """One level: numbers of the latents that it adds, and what it explains with those before it."""

    title: str
    """`level 1` is the first and most general."""
    l0: float
    """Active latents a token."""
    alive: float
    """Share of its latents that fire at all."""
    explained_variance: float
    """Centred, of the reconstruction by this level and those before it."""
    smoothness: float
    """The T-SAE paper's, of its latents alone."""
    smoothness_null: float
    """The same with the inputs permuted within documents."""

    @property
    def collapsed(self) -> bool:
        """Whether it is silent: its other numbers then say nothing, a smoothness of zeros least of all."""
        return self.l0 < SILENT_L0 or self.alive < SILENT_ALIVE

    @property
    def text(self) -> str:
        """In a line."""
        collapsed = ", collapsed" if self.collapsed else ""
        return (
            f"L0 {self.l0:.1f}, {self.alive:.0%} alive, explains {self.explained_variance:.4f}, "
            f"smoothness {self.smoothness:.4f} (inputs permuted {self.smoothness_null:.4f}){collapsed}"
        )


def levels_of(summary: Mapping[str, float | int | None]) -> list[Level]:
    """All levels of a summary, none where the SAE has none."""
    found: list[Level] = []
    while f"level{len(found)}_l0" in summary:
        names = ("l0", "alive", "explained_variance_centred", "smoothness", "smoothness_inputs_permuted")
        values = (summary.get(f"level{len(found)}_{name}") for name in names)
        numbers = (math.nan if value is None else float(value) for value in values)
        found.append(Level(f"level {len(found) + 1}", *numbers))
    return found
