"""The schema of how a variant is trained: optimiser, batches, early stopping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.sae.architecture import STRICT_KEYS, Count, Positive, Steps, Weight


@dataclass(frozen=True, config=STRICT_KEYS)
class NoiseRow:
    """Gaussian noise on the gradients that fades with the steps (Neelakantan et al. 2015, arXiv 1511.06807)."""

    scale: Weight
    """Its standard deviation at the first step, in root mean squares of each parameter's gradient."""
    steps: Steps
    """Steps with noise."""


@dataclass(frozen=True, config=STRICT_KEYS)
class OptimizerRow:
    """The optimiser and its learning rate over time."""

    name: Literal["adam", "adamw"]
    """Adam with betas 0.9 and 0.999; `adamw` with decoupled weight decay."""
    lr: Positive
    """Peak learning rate."""
    warmup: Steps
    """Steps over which the learning rate rises linearly from 0."""
    decay: Annotated[float, Field(ge=0, lt=1)]
    """The last share of the steps, over which the learning rate falls linearly to 0."""
    clip: Positive | None
    """Largest norm of the gradient over all parameters; null for none."""
    noise: NoiseRow | None = None
    """Noise on the clipped gradients; null for none."""
    clip_value: Positive | None = None
    """Largest absolute value of a gradient's entry; null for none."""
    weight_decay: Weight = 0.0
    """Of `adamw`, on matrices other than the decoder, whose rows have unit norm."""

    def __post_init__(self) -> None:
        if self.weight_decay and self.name != "adamw":
            raise ValueError("only adamw decays weights")


@dataclass(frozen=True, config=STRICT_KEYS)
class StoppingRow:
    """Early stopping by the reconstruction loss on held-out windows, never before all schedules are over."""

    every: Count
    """Steps between looks."""
    patience: Count
    """Looks without a new smallest loss after which training ends."""
    not_before: Steps
    """Steps that are done in any case."""


@dataclass(frozen=True, config=STRICT_KEYS)
class BatchesRow:
    """How the windows of a step are put together."""

    rows: Positive = 1.0
    """Sequences in a batch, as a multiple of the profile's."""
    lengths: tuple[Count, ...] = ()
    """Window lengths, an equal share of the steps each: sequences are cut into windows that know nothing of each other.
    Empty for whole sequences."""
    accumulate: Count = 1
    """Parts of a batch whose gradients are summed before a step; memory is that of one."""
    recompute: bool = False
    """Whether the backward pass computes codes again instead of keeping them (activation checkpointing)."""
