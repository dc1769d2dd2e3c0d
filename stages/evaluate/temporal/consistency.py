"""Temporal consistency at several scales, with its replicates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.temporal.lagged import LaggedSums
from stages.evaluate.temporal.segments import Segments

SCALES = {"short": (1, 4), "medium": (5, 16), "long": (17, 127)}
"""First and last lag of every scale."""
ADJACENT = "adjacent"
"""The scale of slowness, which is 2 (1 - TCS) there."""
RANGES = SCALES | {ADJACENT: (1, 1)}
"""First and last lag of all that is averaged over lags."""
MIN_PAIRS = 1000
"""Pairs that a lag needs to be reported on and to count in a scale."""
SMALL_VARIANCE = 1e-4
"""Share of the mean square; a signal that varies less counts as constant, because float32 sums cannot tell."""


@dataclass(frozen=True)
class Lags:
    """The pairs of tokens there are. They follow from the documents alone, so what is measured shares them."""

    pairs: Int[np.ndarray, " context"]
    """Pairs by lag; at lag 0 the tokens."""
    drawn: Float[np.ndarray, "replicates context"]
    """The same in each replicate of the bootstrap."""

    @classmethod
    def of(cls, batches: Iterable[Segments]) -> Lags:
        """Those of all batches."""
        found = [(each.pairs.sum(axis=0), each.draws.weights.cpu().numpy() @ each.pairs) for each in batches]
        return cls(*(np.sum(each, axis=0) for each in zip(*found, strict=True)))

    @property
    def context(self) -> int:
        """Lags, with lag 0."""
        return len(self.pairs)

    @cached_property
    def enough(self) -> Bool[np.ndarray, " context"]:
        """Whether a lag (from 1) has enough pairs to be reported on."""
        return (self.pairs >= MIN_PAIRS) & (np.arange(self.context) > 0)

    def used(self, scale: str) -> list[int]:
        """The lags of a scale that have enough pairs."""
        first, last = RANGES[scale]
        return [lag for lag in np.flatnonzero(self.enough).tolist() if first <= lag <= last]

    @cached_property
    def weights(self) -> Float[np.ndarray, "scales context"]:
        """What turns sums by lag into the mean over a scale's lags of the mean over pairs. NaN for a scale without."""
        used = np.stack([np.isin(np.arange(self.context), self.used(scale)) for scale in RANGES])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(used, 1 / self.pairs, 0) / used.sum(axis=1, keepdims=True)


def consistency(sums: LaggedSums, lags: Lags) -> dict[str, float]:
    """TCS of a signal: 1 - E(h_{t+lag} - h_t)^2 / (2 sigma_i^2), averaged over a scale's lags and the signal's columns.

    0 where two tokens of a document are no more alike than any two of the corpus, 1 for a constant; equal to the mean
    autocorrelation of a stationary signal. The pairs' expectation is over pairs, sigma_i^2 over all
    kept tokens. NaN where it does not exist.
    """
    weights = torch.as_tensor(lags.weights, device=sums.heads.device)
    scores = 1 - weights @ sums.differences / (2 * corpus_variance(sums, lags))
    return dict(zip(RANGES, scores.nanmean(dim=1).tolist(), strict=True))


class DrawnConsistency:
    """TCS in each replicate of the bootstrap over documents. Which lags count is not drawn anew.

    Kept are sums of what each column has in all documents that a replicate draws: of h, of h^2, and for each scale of
    the differences weighted by lag. Their size depends on no number of tokens.
    """

    def __init__(self, lags: Lags, d: int, device: torch.device) -> None:
        self._lags = lags
        self._weights = torch.as_tensor(lags.weights, device=device)
        self._reach = self._weights.cumsum(dim=1).float()
        scales, _ = lags.weights.shape
        self._sums = torch.zeros(len(lags.drawn), 2 + scales, d, dtype=torch.float64, device=device)

    def add(self, h: Float[Tensor, "n d"], products: Float[Tensor, "runs scales d"], segments: Segments) -> None:
        """Count the kept tokens of one batch, whose weighted `products` by run are those of `LaggedSums`."""
        squares = h.square()
        counts = self._reach[:, segments.after] + self._reach[:, segments.before]  # of the pairs that a token is in
        counts = torch.cat([torch.ones_like(counts[:1]), counts])
        by_run = h.new_empty(len(products), *self._sums.shape[1:])
        for run, (start, stop) in enumerate(segments.spans):
            torch.sum(h[start:stop], dim=0, out=by_run[run, 0])
            torch.mm(counts[:, start:stop], squares[start:stop], out=by_run[run, 1:])
        by_run[:, 2:].sub_(products, alpha=2)
        self._sums += (segments.draws.weights.float() @ by_run.flatten(1)).view_as(self._sums)

    def finish(self, sums: LaggedSums) -> dict[str, Float[np.ndarray, " replicates"]]:
        """By scale, the score in each replicate, given the sums of the sample; not finite where it does not exist.

        A replicate has other documents and so another number of pairs P_b of each lag. Exact would be the mean over
        lags of D_b / P_b with the sums of differences D_b of each lag, which are not kept. D_b / P in their place, with
        the pairs P of the sample, is corrected for P_b / P in two steps: by its mean over the scale's lags exactly, by
        what remains of it to first order. Where all runs of tokens are equally long, nothing remains.
        """
        device = self._sums.device
        pairs, drawn = (torch.as_tensor(each, device=device).double() for each in (self._lags.pairs, self._lags.drawn))
        mean, square = (self._sums[:, i] / drawn[:, :1] for i in (0, 1))
        whole = corpus_variance(sums, self._lags)
        spread = variance(mean, square).where(whole.isfinite(), torch.nan)
        distances = (sums.differences / pairs[:, None] / (2 * whole)).nan_to_num(0, 0, 0)
        found = {}
        for scale, weights, differences in zip(RANGES, self._weights, self._sums[:, 2:].unbind(1), strict=True):
            size = (drawn @ weights)[:, None]
            remains = weights * (drawn / size - pairs)
            scores = 1 - differences / size / (2 * spread) + remains @ distances
            found[scale] = scores.nanmean(dim=1).cpu().numpy()
        return found


def corpus_variance(sums: LaggedSums, lags: Lags) -> Float[Tensor, " d"]:
    """sigma^2 over all kept tokens, NaN for a constant."""
    tokens = int(lags.pairs[0])
    return variance(sums.heads[0] / tokens, sums.squares[0] / 2 / tokens)


def variance(mean: Float[Tensor, "*shape d"], square: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
    """`square - mean^2`, NaN where it is too small to be more than rounding."""
    found = square - mean.square()
    return found.where(found > SMALL_VARIANCE * square, torch.nan)
