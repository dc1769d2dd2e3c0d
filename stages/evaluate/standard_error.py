"""Standard errors that respect that the tokens of a row depend on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit
from torch import Tensor

CONFIDENCE = 0.95
"""Of intervals."""


def ratio_standard_error(numerator: Float[Tensor, " row"], denominator: Float[Tensor, " row"]) -> float:
    """Standard error of sum(numerator) / sum(denominator) when rows, not tokens, are independent.

    The linearised ratio estimator with rows as clusters (Cochran, Sampling Techniques, 3rd ed., section
    6.4): a mean over tokens is the ratio of row sums to row counts; a score is the ratio of two differences
    of row sums. NaN for fewer than two rows.
    """
    rows = len(numerator)
    total = float(denominator.sum())
    if rows < 2 or total == 0:
        return math.nan
    residual = numerator - (numerator.sum() / total) * denominator
    return math.sqrt(rows / (rows - 1) * float(residual.square().sum())) / abs(total)


def jackknife_standard_error(left_out: Sequence[float]) -> float:
    """Standard error from the estimates that leave out one of equal groups each; NaN for fewer than two."""
    if len(left_out) < 2:
        return math.nan
    return math.sqrt((len(left_out) - 1) * float(np.var(left_out)))


def half_width(error: float, seeds: int = 1) -> float:
    """Half of a 95 % interval: of one estimate by its standard error, as if it were normal; of the mean over several
    seeds by the standard deviation among them (Student's t)."""
    upper = (1 + CONFIDENCE) / 2
    if seeds < 2:
        return float(ndtri(upper)) * error
    return float(stdtrit(seeds - 1, upper)) * error / math.sqrt(seeds)


class GroupedRatio:
    """The ratio of two running sums, and its error by leaving out one group of batches at a time."""

    def __init__(self) -> None:
        self._numerator, self._denominator = 0.0, 0.0
        self._seen: list[tuple[float, float]] = []

    def add(self, numerator: float, denominator: float) -> None:
        """Add to both sums."""
        self._numerator += numerator
        self._denominator += denominator

    def end_group(self) -> None:
        """Note the running sums at the end of a group."""
        self._seen.append((self._numerator, self._denominator))

    @property
    def value(self) -> float:
        """The ratio; NaN where nothing divides."""
        return self._numerator / self._denominator if self._denominator else math.nan

    @property
    def standard_error(self) -> float:
        """Its jackknife standard error; NaN where a group has all there is."""
        seen = np.array([(0.0, 0.0), *self._seen])
        numerator, denominator = (seen[-1] - np.diff(seen, axis=0)).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return jackknife_standard_error((numerator / denominator).tolist())
