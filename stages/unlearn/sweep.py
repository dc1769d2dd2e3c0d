"""The sweep over interventions, and the score that SAEBench makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.model import SAE
from stages.unlearn.clamp import Clamp, clamped
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.estimate import Estimate
from stages.unlearn.latents import select

SIDE_EFFECTS = 0.99
"""Accuracy on what is to be kept below which an intervention does not count."""


@dataclass(frozen=True)
class Setting:
    """One point of the sweep."""

    retain_threshold: float
    """See `UnlearnConfig`, as for the others."""
    n_latents: int
    """How many were asked for."""
    multiplier: float
    """What active ones are set to is minus this."""
    window: int
    """Tokens for which a latent stays active."""
    latents: tuple[int, ...]
    """Those that were chosen: fewer than asked for where fewer qualify."""

    @property
    def name(self) -> str:
        """Unique in a sweep."""
        return f"{self.retain_threshold}/{self.n_latents}/{self.multiplier}/{self.window}"

    @property
    def clamp(self) -> Clamp:
        """The intervention."""
        return Clamp(self.latents, self.multiplier, self.window)


def settings_of(
    config: UnlearnConfig, forget: Float[np.ndarray, " d_sae"], retain: Float[np.ndarray, " d_sae"]
) -> list[Setting]:
    """Every combination, with the latents that it clamps."""
    chosen = {threshold: select(forget, retain, threshold).tolist() for threshold in config.retain_thresholds}
    grid = product(config.retain_thresholds, config.n_latents, config.multipliers, config.windows)
    return [Setting(t, n, m, w, tuple(chosen[t][:n])) for t, n, m, w in grid]


class Clamps:
    """All settings as interventions on one batch, which is encoded once."""

    def __init__(self, sae: SAE, settings: Sequence[Setting]) -> None:
        self.sae, self.settings = sae, settings
        self._latents = torch.tensor(sorted({i for each in settings for i in each.latents}), dtype=torch.int64)

    def __call__(
        self, resid: Float[Tensor, "batch seq d"], segments: Int[Tensor, "batch seq"]
    ) -> Iterator[tuple[str, Float[Tensor, "batch seq d"]]]:
        """By name, the residual stream that a setting leaves; under "" the one that is there."""
        segments = segments.to(resid.device)
        latents = self._latents.to(resid.device)
        codes, fired = self._of(latents, resid, segments)
        yield "", resid
        for setting in self.settings:
            own = torch.searchsorted(latents, torch.tensor(setting.latents, dtype=torch.int64, device=latents.device))
            yield setting.name, clamped(resid, codes[..., own], fired[..., own], segments, self.sae, setting.clamp)

    def _of(
        self, latents: Int[Tensor, " n"], resid: Float[Tensor, "batch seq d"], segments: Int[Tensor, "batch seq"]
    ) -> tuple[Float[Tensor, "batch seq n"], Bool[Tensor, "batch seq n"]]:
        """Codes of some latents and where they fire: those of all would stay in memory for every setting."""
        encoded = self.sae.encoding(resid.float(), segments=segments).codes
        codes = encoded.dense()
        events = codes if encoded.events is encoded else encoded.events.dense()
        return codes.index_select(-1, latents), events.index_select(-1, latents) != 0


@dataclass(frozen=True)
class Outcome:
    """What an intervention did."""

    accuracy: Mapping[str, Estimate]
    """By set of questions, the share of the known ones that are still answered rightly."""
    forget_accuracy: Estimate
    """That of the set to forget."""
    retain_accuracy: Estimate
    """That of all other questions together."""
    forget_loss: Estimate
    """Mean cross-entropy on the text to forget, in nats."""
    retain_loss: Estimate
    """The same on the text to retain."""

    def row(self) -> dict[str, Any]:
        """Values by name, each with its standard error beside it: `forget_loss_se`; None where there is none."""
        numbers = {
            name: getattr(self, name) for name in ("forget_accuracy", "retain_accuracy", "forget_loss", "retain_loss")
        }
        return {
            "accuracy": {name: each.value for name, each in self.accuracy.items()},
            "accuracy_se": {name: each.error for name, each in self.accuracy.items()},
            **{name: each.value for name, each in numbers.items()},
            **{f"{name}_se": None if math.isnan(each.error) else each.error for name, each in numbers.items()},
        }


def outcome(
    right: Mapping[str, Bool[np.ndarray, " known"]], forget: str, forget_loss: Estimate, retain_loss: Estimate
) -> Outcome:
    """Of which known questions are answered rightly, by set."""
    others = np.concatenate([values for name, values in right.items() if name != forget])
    accuracy = {name: Estimate.of_answers(values) for name, values in right.items() if len(values)}
    return Outcome(accuracy, accuracy[forget], Estimate.of_answers(others), forget_loss, retain_loss)


def unlearning_score(outcomes: Sequence[Outcome]) -> float:
    """SAEBench's: 1 minus the smallest accuracy on what is to be forgotten, of those that keep 99 % of the rest; 0
    where none does."""
    enough = [each.forget_accuracy.value for each in outcomes if each.retain_accuracy.value >= SIDE_EFFECTS]
    return 1.0 - min(enough, default=1.0)
