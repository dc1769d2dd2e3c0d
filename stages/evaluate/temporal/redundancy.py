"""How much the columns of a signal repeat each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stages.evaluate.temporal import consistency
from stages.evaluate.temporal.gram import gram
from stages.sae.products import Selection

HIGH = 0.9
"""Absolute correlation above which two columns count as one."""


@dataclass(frozen=True)
class Redundancy:
    """Correlation between columns over tokens. NaN where a number does not exist."""

    columns: int
    """Columns that were correlated; those that do not vary are left out."""
    high_share: float
    """Share of the pairs of columns with |correlation| > `HIGH`."""
    effective_rank: float
    """Exponential of the entropy of the eigenvalues of the correlation matrix, as shares of their sum (Roy and
    Vetterli 2007): the number of columns where none are correlated."""


class Covariance:
    """Running sums of the products of all pairs of columns."""

    def __init__(self, d: int, device: torch.device) -> None:
        self._products = torch.zeros(d, d, device=device)
        self._sum = torch.zeros(d, dtype=torch.float64, device=device)
        self._tokens = 0

    def add(self, h: Float[Tensor, "n d"], chosen: Selection) -> None:
        """Count the kept tokens of one batch; `chosen` are the columns of each that may differ from 0."""
        self._products += gram(h, h, chosen)
        self._sum += h.sum(0)
        self._tokens += len(h)

    @property
    def correlation(self) -> Float[Tensor, "varying varying"]:
        """Pearson's correlation over tokens between columns that vary."""
        second, mean = self._products.double() / self._tokens, self._sum / self._tokens
        spread = consistency.variance(mean, second.diagonal()).sqrt()
        varying = spread.isfinite().nonzero()[:, 0]
        mean, spread = mean[varying], spread[varying]
        return (second[varying][:, varying] - mean[:, None] * mean) / (spread[:, None] * spread)

    def finish(self) -> Redundancy:
        """The redundancy of everything counted."""
        if self._tokens < consistency.MIN_PAIRS:
            return Redundancy(0, math.nan, math.nan)
        correlation = self.correlation
        d = len(correlation)
        if d < 2:
            return Redundancy(d, math.nan, math.nan)
        high = int((correlation.abs() > HIGH).sum()) - d
        shares = torch.linalg.eigvalsh(correlation).clamp(min=0) / d
        return Redundancy(d, high / (d * (d - 1)), float(torch.special.entr(shares).sum().exp()))
