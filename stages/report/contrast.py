"""Temporal variants beside their controls: differences, and how far these can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.report.evaluated_run import EvaluatedRun, grouped
from stages.report.metric import METRICS, Metric

Pair = tuple[EvaluatedRun, EvaluatedRun]
"""A run, and the run of the control with its seed, its steps and its store."""

NO_TEMPORAL, PERMUTED = "no-temporal", "permuted"
"""Controls: the variant without its temporal part; the variant trained on windows in permuted order."""

CLEAR = 2.0
"""A difference of so many of its errors is one; a smaller one is within its error."""


@dataclass(frozen=True)
class Difference:
    """A metric of a variant and of its control: means over the pairs of runs that have it."""

    metric: Metric
    """Which."""
    value: float
    """Of the variant."""
    control: float
    """Of the control."""
    null: float
    """Of the variant where the inputs are permuted within documents."""
    control_null: float
    """Of the control where the inputs are permuted within documents."""
    mean: float
    """Variant minus control."""
    error: float
    """Standard deviation of the paired differences over seeds; with one seed their standard error; NaN if unknown."""
    n: int
    """Pairs."""

    @property
    def null_mean(self) -> float:
        """Variant minus control, with the inputs of both permuted."""
        return self.null - self.control_null

    @property
    def known(self) -> bool:
        """Whether there is a difference and its error."""
        return math.isfinite(self.mean) and math.isfinite(self.error)

    @property
    def clear(self) -> bool:
        """Whether the difference is too large for its error to explain."""
        return self.known and abs(self.mean) > CLEAR * self.error

    @property
    def improves(self) -> bool:
        """Whether it is clear, and for the better."""
        return self.clear and self.mean * self.metric.better > 0


@dataclass(frozen=True)
class Contrast:
    """A variant against one control."""

    variant: str
    """Label of the variant's group."""
    control: str
    """Name of the control."""
    pairs: tuple[Pair, ...]
    """Runs, seed by seed."""
    differences: dict[str, Difference]
    """By name of the metric."""


@dataclass(frozen=True)
class Comparison:
    """A temporal variant against the controls that were evaluated; None for one that was not."""

    variant: str
    """Label of the variant's group."""
    name: str
    """Its name in the table of variants."""
    bought: Contrast | None
    """Against the variant without its temporal part."""
    order: Contrast | None
    """Against the variant trained in permuted order: what the order of the tokens is worth."""
    permuted: Contrast | None
    """The variant trained in permuted order against the one without the temporal part."""

    @property
    def main(self) -> Contrast | None:
        """The contrast that tables and figures show first."""
        return self.bought or self.order


def comparisons(runs: Sequence[EvaluatedRun]) -> list[Comparison]:
    """One for every temporal variant: those with temporal terms, or with an evaluated control."""
    temporal = {run.variant.partition("+")[0] for run in runs if run.has_temporal_terms or "+" in run.variant}
    found = []
    for label, group in grouped(runs).items():
        name = group[0].variant
        if name not in temporal:
            continue
        without, permuted = (_paired(group, runs, f"{name}+{control}") for control in (NO_TEMPORAL, PERMUTED))
        in_permuted_order = _paired([control for _, control in permuted], runs, f"{name}+{NO_TEMPORAL}")
        found.append(Comparison(label, name, _contrast(without), _contrast(permuted), _contrast(in_permuted_order)))
    return found


def difference(pairs: Sequence[Pair], metric: Metric) -> Difference:
    """Compare a metric, over the pairs in which both runs have it."""
    pairs = [pair for pair in pairs if all(math.isfinite(run.number(metric.name)) for run in pair)]
    if not pairs:
        missing = math.nan
        return Difference(metric, missing, missing, missing, missing, missing, missing, 0)
    values, nulls = _numbers(pairs, metric.name), _numbers(pairs, f"{metric.name}_inputs_permuted")
    gains = values[:, 0] - values[:, 1]
    error = gains.std(ddof=1) if len(pairs) > 1 else np.linalg.norm(_numbers(pairs, f"{metric.name}_se"))
    (value, control), (null, control_null) = values.mean(axis=0).tolist(), nulls.mean(axis=0).tolist()
    return Difference(metric, value, control, null, control_null, float(gains.mean()), float(error), len(pairs))


def _paired(group: Sequence[EvaluatedRun], runs: Sequence[EvaluatedRun], control: str) -> list[Pair]:
    controls = {run.setting: run for run in runs if run.variant == control}
    return [(run, controls[run.setting]) for run in group if run.setting in controls]


def _contrast(pairs: Sequence[Pair]) -> Contrast | None:
    if not pairs:
        return None
    differences = {metric.name: difference(pairs, metric) for metric in METRICS}
    return Contrast(pairs[0][0].group, pairs[0][1].variant, tuple(pairs), differences)


def _numbers(pairs: Sequence[Pair], name: str) -> np.ndarray:
    """`[pairs, 2]`."""
    return np.array([[run.number(name) for run in pair] for pair in pairs], dtype=np.float64)
