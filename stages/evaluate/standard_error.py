"""Standard errors and intervals from replicates of a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""Of intervals."""


def standard_error(replicates: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """The standard deviation of replicates; NaN for fewer than two, or where a replicate does not exist."""
    if len(replicates) < 2 or not np.isfinite(replicates).all():
        return math.nan
    return float(np.std(replicates, ddof=1))


def jackknife(value: float, left_out: Sequence[float]) -> Float[np.ndarray, " groups"]:
    """Replicates whose standard deviation is the standard error of the delete-a-group jackknife (Kott 2001), from
    a number and its estimates that leave out one of equal groups each.

    As deviations they are (g - 1) / sqrt(g) times those of the estimates, so that differences of two numbers have the
    jackknife's error too.
    """
    groups = len(left_out)
    deviations = np.array(left_out) - np.mean(left_out) if groups else np.empty(0)
    return value + deviations * (groups - 1) / math.sqrt(max(groups, 1))


def half_width(error: float, n: int = 1, degrees: float = math.inf) -> float:
    """Half of a 95 % interval around the mean of n numbers, by Student's t.

    Of several, `error` is the standard deviation among them, with n - 1 degrees of freedom; of one it is that one's
    standard error, with `degrees`.
    """
    upper = (1 + CONFIDENCE) / 2
    return float(stdtrit(n - 1 if n > 1 else degrees, upper)) * error / math.sqrt(max(n, 1))


def half_width_of_both(spread: float, n: int, of_documents: float, degrees: float) -> float:
    """The same around the mean of n seeds that were evaluated on the same documents.

    `spread` is the standard deviation among the seeds, which has nothing of what the documents do to all of them;
    `of_documents` is the standard error of the mean over documents, NaN where it is unknown, with `degrees`. Each is
    taken by its own Student's t, as squares that add.
    """
    over_documents = half_width(of_documents, degrees=degrees)
    return math.hypot(half_width(spread, n), np.nan_to_num(over_documents)) if n > 1 else over_documents
