"""Temporal consistency at several scales, with standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.standard_error import jackknife_standard_error
from stages.evaluate.temporal.lagged import LaggedSums

SCALES = {"short": (1, 4), "medium": (5, 16), "long": (17, 127)}
"""First and last lag of every scale."""
MIN_PAIRS = 1000
"""Pairs that a lag needs to be reported on and to count in a scale."""
GROUPS = 10
"""Groups of batches that the jackknife leaves out in turn."""
SMALL_VARIANCE = 1e-4
"""Share of the mean square; a signal that varies less counts as constant, because float32 sums cannot tell."""


@dataclass(frozen=True)
class Lags:
    """The pairs of tokens there are. They follow from the documents alone, so what is measured shares them."""

    by_group: Int[np.ndarray, "groups context"]
    """Pairs by group of batches and lag; at lag 0 the tokens."""

    @classmethod
    def of(cls, pairs: Sequence[Int[np.ndarray, " context"]]) -> Lags:
        """From the pairs of every batch."""
        return cls(np.stack([np.sum(group, axis=0) for group in np.array_split(np.stack(pairs), groups_of(pairs))]))

    @property
    def context(self) -> int:
        """Lags, with lag 0."""
        return self.by_group.shape[1]

    @cached_property
    def pairs(self) -> Int[np.ndarray, " context"]:
        """Pairs by lag; at lag 0 the tokens."""
        return self.by_group.sum(axis=0)

    @cached_property
    def enough(self) -> Bool[np.ndarray, " context"]:
        """Whether a lag (from 1) has enough pairs to be reported on."""
        return (self.pairs >= MIN_PAIRS) & (np.arange(self.context) > 0)

    def used(self, scale: str) -> list[int]:
        """The lags of a scale that have enough pairs."""
        first, last = SCALES[scale]
        return [lag for lag in np.flatnonzero(self.enough).tolist() if first <= lag <= last]

    @cached_property
    def replicates(self) -> Float[np.ndarray, "replicates groups"]:
        """Which groups each replicate of the estimate contains: first all of them, then all but one."""
        groups = len(self.by_group)
        return np.concatenate([np.ones((1, groups)), 1 - np.eye(groups)])

    @cached_property
    def weights(self) -> Float[np.ndarray, "replicates scales context"]:
        """What turns sums by lag into the mean over a scale's lags of the mean over pairs. NaN for a scale without."""
        pairs = self.replicates @ self.by_group
        used = np.stack([np.isin(np.arange(self.context), self.used(scale)) for scale in SCALES])
        counted = used & (pairs > 0)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(counted, 1 / pairs[:, None], 0) / counted.sum(axis=2, keepdims=True)


class Consistency:
    """TCS of a signal: 1 - E(h_{t+lag} - h_t)^2 / (2 sigma_i^2), averaged over a scale's lags and the signal's columns.

    0 where order does not matter, 1 for a constant; equal to the mean autocorrelation of a stationary signal.
    The pairs' expectation is over pairs, sigma_i^2 over all kept tokens.

    The standard error is the delete-a-group jackknife: the batches, whose rows are drawn at random, form `GROUPS`
    consecutive groups; the estimate is repeated without each of them in turn, sigma_i^2 included. It takes rows for
    independent, as the other standard errors do. Only means over lags are kept of every replicate: they are
    linear in the sums, and each group adds its own to every replicate that contains it.
    """

    def __init__(self, lags: Lags, d: int, device: torch.device) -> None:
        self._weights = torch.as_tensor(lags.weights, device=device)
        self._contains = torch.as_tensor(lags.replicates, device=device)
        self._tokens = torch.as_tensor(lags.replicates @ lags.by_group[:, 0], device=device)[:, None]
        replicates, scales, _ = lags.weights.shape
        self._sums = torch.zeros(replicates, scales + 2, d, dtype=torch.float64, device=device)
        self._seen = torch.zeros_like(self._sums)
        self._groups = 0

    def end_group(self, sums: LaggedSums) -> None:
        """Note the running sums at the end of a group."""
        moments = torch.stack([sums.heads[0], sums.squares[0] / 2])
        differences = self._weights @ sums.differences
        seen = torch.cat([moments.expand(len(differences), -1, -1), differences], dim=1)
        self._sums += self._contains[:, self._groups, None, None] * (seen - self._seen)
        self._seen = seen
        self._groups += 1

    def finish(self) -> tuple[dict[str, float], dict[str, float]]:
        """By scale, the score and its standard error; NaN where they do not exist."""
        mean, square = self._sums[:, 0] / self._tokens, self._sums[:, 1] / self._tokens
        scores = 1 - self._sums[:, 2:] / (2 * variance(mean, square)[:, None])
        full, *left_out = scores.nanmean(dim=2).tolist()
        errors = [jackknife_standard_error(values) for values in zip(*left_out, strict=True)]
        return dict(zip(SCALES, full, strict=True)), dict(zip(SCALES, errors, strict=True))


def variance(mean: Float[Tensor, "*shape d"], square: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """`square - mean^2`, NaN where it is too small to be more than rounding."""
    found = square - mean.square()
    return found.where(found > SMALL_VARIANCE * square, torch.nan)


def groups_of(batches: Sequence[object]) -> int:
    """Into how many groups the jackknife divides so many batches, with `np.array_split`."""
    return min(GROUPS, len(batches))
