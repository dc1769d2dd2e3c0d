"""Numbers with their standard errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from torch import Tensor


class Estimate(NamedTuple):
    """A number and how far off it may be."""

    value: float
    """The number."""
    error: float
    """Its standard error; NaN where a single row says nothing of it."""

    @classmethod
    def of_answers(cls, right: Bool[np.ndarray, " questions"]) -> Estimate:
        """The share of right answers, with the binomial standard error: as if other questions could have been asked."""
        share = float(right.mean())
        return cls(share, math.sqrt(share * (1 - share) / len(right)))

    @classmethod
    def of_rows(cls, sums: Float64[Tensor, " rows"], counts: Float64[Tensor, " rows"]) -> Estimate:
        """The mean over the tokens of rows, of which rows are independent and tokens are not.

        Its error is that of the linearised ratio estimator (Cochran, Sampling Techniques, 3rd ed., section 6.4).
        """
        rows, total = len(sums), float(counts.sum())
        mean = float(sums.sum()) / total
        if rows < 2:
            return cls(mean, math.nan)
        squares = float((sums - mean * counts).square().sum())
        return cls(mean, math.sqrt(rows / (rows - 1) * squares) / total)
