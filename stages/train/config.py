"""What to train: the sizes of a profile, and with a variant and a seed a whole configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from store.problem import Problem

if TYPE_CHECKING:
    from stages.sae.variant import Variant


@dataclass(frozen=True)
class TrainSizes:
    """The part of a training that a profile decides, equal for all its variants."""

    d_sae: int
    """Latents."""
    k: int
    """Latents a token may activate, for variants with TopK."""
    batch_rows: int
    """Sequences in a batch."""
    steps: int
    """Optimiser steps."""
    log_every: int = 10
    """Steps between rows of the metrics log."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    guard_every: int = 100
    """Steps between looks for a dead run."""
    curriculum: tuple[int, ...] = ()
    """Layers on which variants with a curriculum train an SAE each, in this order."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "curriculum" and value < 1:
                raise Problem(
                    "A size of the training is too small.",
                    where=f"train.{name}",
                    expected="1 or more",
                    found=value,
                    usage=True,
                )


@dataclass(frozen=True)
class TrainConfig:
    """One training."""

    variant: Variant
    """Row of the table."""
    seed: int
    """Decides the initialisation and the order of the windows."""
    steps: int
    """Optimiser steps."""
    batch_rows: int
    """Sequences in a batch."""
    d_sae: int
    """Latents."""
    k: int
    """Latents a token may activate, for variants with TopK."""
    log_every: int = 10
    """Steps between rows of the metrics log."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    guard_every: int = 100
    """Steps between looks for a dead run."""


def make_config(variant: Variant, sizes: TrainSizes, seed: int, steps: int | None = None) -> TrainConfig:
    """The training of a variant at a profile's sizes; `steps` overrides the profile's, the row multiplies its batch."""
    rows = max(1, round(sizes.batch_rows * variant.batches.rows))
    numbers = {**vars(sizes), "batch_rows": rows, "steps": sizes.steps if steps is None else steps}
    del numbers["curriculum"]
    return TrainConfig(variant, seed, **numbers)
