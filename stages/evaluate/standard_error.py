"""Standard errors that respect that the tokens of a row depend on each other."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


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
