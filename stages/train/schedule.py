"""Schedules: numbers that depend on the step alone, so that a resumed run needs no state for them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from stages.sae.variant import Variant


@dataclass(frozen=True)
class Ramp:
    """Rises linearly from 0 and stays at 1."""

    length: int
    """Steps until it is 1; 0 for a constant 1."""

    def at(self, step: int) -> float:
        """The factor at a step, counted from 0. The first step of a ramp already has `1 / length`."""
        return min(1.0, (step + 1) / self.length) if self.length else 1.0


@dataclass(frozen=True)
class LearningRate:
    """Linear warm-up to a peak, constant, linear decay to 0 over the last share of the steps."""

    peak: float
    """The constant in the middle."""
    warmup: Ramp
    """The rise."""
    decay: float
    """Share of the steps that fall."""
    steps: int
    """All steps."""

    def at(self, step: int) -> float:
        """The learning rate of a step, counted from 0; the last step's is above 0."""
        falling = self.decay * self.steps
        fall = min(1.0, (self.steps - step) / falling) if falling else 1.0
        return self.peak * self.warmup.at(step) * fall


@dataclass(frozen=True)
class Boost:
    """A factor that is held at first and then goes linearly to 1."""

    factor: float
    """The factor at first."""
    hold: int
    """Steps with it."""
    back: int
    """Steps from it to 1."""

    def at(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.hold:
            return self.factor
        done = min(1.0, (step - self.hold) / self.back) if self.back else 1.0
        return self.factor + (1.0 - self.factor) * done


def window_length(lengths: tuple[int, ...], step: int, steps: int) -> int:
    """How long windows are at a step, counted from 0: each length for an equal share of the steps."""
    return lengths[step * len(lengths) // steps] if lengths else sys.maxsize


SHARES = ("objective.pruning", "batches.lengths")
"""Schedules that take a share of the steps, whatever their number."""


def ends_of_schedules(variant: Variant, steps: int) -> dict[str, int]:
    """The step at which each schedule of a variant is over, by its key in the table.

    The final decays, of the learning rate and of temporal weights, are not ones.
    """
    objective, optimizer = variant.objective, variant.optimizer
    ends = {"optimizer.warmup": optimizer.warmup, "objective.l1_warmup": objective.l1_warmup}
    if objective.reconstruction_boost is not None:
        boost = objective.reconstruction_boost
        ends["objective.reconstruction_boost"] = boost.hold + boost.back
    if objective.temporal is not None:
        ends["objective.temporal"] = objective.temporal.delay + objective.temporal.ramp
    if objective.pruning is not None:
        ends["objective.pruning"] = round(objective.pruning.at[-1] * steps)
    if optimizer.noise is not None:
        ends["optimizer.noise"] = optimizer.noise.steps
    lengths = variant.batches.lengths
    if lengths:
        reached = (step for step in range(steps) if window_length(lengths, step, steps) == lengths[-1])
        ends["batches.lengths"] = next(reached, steps)
    return ends


def end_of_schedules(variant: Variant, steps: int) -> int:
    """The step at which all of them are over."""
    return max(ends_of_schedules(variant, steps).values())
