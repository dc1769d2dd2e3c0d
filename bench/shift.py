"""Differences between rows, and their 95 % intervals over seeds and documents.

All seeds are evaluated on the same documents: what these do to a difference does not show in its spread over seeds,
only in its replicates.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from stages.evaluate.standard_error import half_width_of_both, standard_error
from stages.report.numeral import digits_for


class Shift(NamedTuple):
    """A difference of one seed."""

    value: float
    """In the sample."""
    replicates: Float[np.ndarray, " replicates"]
    """In resamples of the documents; none where rows do not keep them."""
    error: float
    """Over documents where there are no replicates: of rows as if they were independent; NaN if unknown."""


def shift(rows: Sequence[dict[str, Any]], factors: Sequence[float], metric: str) -> Shift:
    """The sum of a metric of rows, each times its factor: 1 and -1 for a plain difference."""
    summaries = [row["summary"] for row in rows]
    replicates = [row.get("replicates", {}).get(metric, []) for row in rows]
    errors = [summary.get(f"{metric}_se", math.nan) for summary in summaries]
    return Shift(
        float(np.dot(factors, [summary[metric] for summary in summaries])),
        np.dot(factors, replicates) if len(set(map(len, replicates))) == 1 else np.empty(0),
        math.hypot(*(factor * error for factor, error in zip(factors, errors, strict=True) if factor)),
    )


def over_documents(shifts: Sequence[Shift]) -> tuple[float, float]:
    """Standard error of their mean over documents, which they share, and its degrees of freedom."""
    sizes = {len(shift.replicates) for shift in shifts}
    if len(sizes) == 1 and 0 not in sizes:
        return standard_error(np.mean([shift.replicates for shift in shifts], axis=0)), sizes.pop() - 1
    return statistics.mean(shift.error for shift in shifts), math.inf


def cell(differences: Sequence[Shift | str], digits: int) -> str:
    """Mean and 95 % interval over seeds and documents; marked where the interval excludes 0. Seeds without a
    difference are counted by the reason."""
    known = [shift for shift in differences if not isinstance(shift, str)]
    reasons = Counter(value for value in differences if isinstance(value, str))
    missing = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if len(known) < 2:
        return missing
    values = [shift.value for shift in known]
    mean = statistics.mean(values)
    half = half_width_of_both(statistics.stdev(values), len(known), *over_documents(known))
    digits = digits_for(half, digits)
    text = f"{mean:+.{digits}f} ± {half:.{digits}f}"
    text = f"**{text}**" if abs(mean) > half else text
    return f"{text} ({missing})" if missing else text
