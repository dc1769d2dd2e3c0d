"""What an unlearning is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from store.problem import Problem

ScoringName = Literal["letter", "completion"]


@dataclass(frozen=True)
class UnlearnConfig:
    """The sweep of SAEBench's unlearning evaluation, which follows Farrell et al. 2024 (arXiv 2410.19278)."""

    forget_topic: str | None = None
    """The topic to forget, of a corpus that has topics and descriptions; None where files name everything."""
    scoring: ScoringName = "letter"
    """`letter` as SAEBench: the model names the letter of a choice. `completion`: the choice with the most probable
    text; for models that know facts and not letters."""
    retain_thresholds: tuple[float, ...] = (0.001, 0.01)
    """Latents that fire at this share of the retain text or more are left alone."""
    n_latents: tuple[int, ...] = (10, 20)
    """How many of the others, those that fire most on the forget text, are clamped."""
    multipliers: tuple[float, ...] = (25.0, 50.0, 100.0, 200.0)
    """An active one is set to minus this, in the units of raw activations."""
    windows: tuple[int, ...] = (1,)
    """A latent counts as active that fired within so many tokens; 1 is SAEBench's, and needed."""
    rows: int = 1024
    """Rows of forget and of retain text on which firings are counted, and RMU is trained."""
    loss_rows: int = 16
    """Other rows of each text, on which the loss is measured: no more than half of a short text."""
    questions_per_topic: int = 100
    """Questions made of each topic's articles."""
    batch_rows: int = 16
    """Rows that go through the language model at once."""
    seed: int = 42
    """Decides which texts and questions are drawn."""

    def __post_init__(self) -> None:
        for name in ("rows", "loss_rows", "questions_per_topic", "batch_rows"):
            if getattr(self, name) < 1:
                raise Problem(
                    f"unlearn.{name} is too small.", expected="1 or more", found=getattr(self, name), usage=True
                )
        for name in ("retain_thresholds", "n_latents", "multipliers", "windows"):
            values = getattr(self, name)
            if not values or not all(0 < value < math.inf for value in values) or len(set(values)) < len(values):
                expected = "different numbers above 0"
                raise Problem(f"unlearn.{name} is not a sweep.", expected=expected, found=values, usage=True)
        if self.seed < 0:
            raise Problem("unlearn.seed is below 0.", expected="0 or more", found=self.seed, usage=True)
        if 1 not in self.windows:
            raise Problem(
                "unlearn.windows leaves out SAEBench's score.", expected="1 among them", found=self.windows, usage=True
            )
