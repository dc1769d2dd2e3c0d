"""Temporal variants beside their controls: differences, and how far these can be trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stages.evaluate.replicates import Replicates
from stages.evaluate.results import Setting
from stages.evaluate.standard_error import half_width, standard_error
from stages.report.evaluated_run import EvaluatedRun, grouped
from stages.report.metric import METRICS, Metric
from stages.report.numeral import digits_for


class Numbered(Protocol):
    """What has the numbers of a summary."""

    def number(self, name: str) -> float:
        """One of them; NaN where it does not exist."""

    def replicates(self, name: str) -> Replicates | None:
        """The same in resamples of the documents; None where it has no such replicates."""


Pair = tuple[EvaluatedRun, Numbered]
"""A run, and what it is compared with: the run of a control with its seed, its steps and its store."""

NO_TEMPORAL, PERMUTED = "no-temporal", "permuted"
"""Controls: the variant without its temporal part; the variant trained on windows in permuted order."""


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
    """Standard deviation of the paired differences over seeds; with one seed their standard error over documents; NaN
    if unknown."""
    n: int
    """Pairs."""
    degrees: float = math.inf
    """With one seed, degrees of freedom of the error."""

    @property
    def null_mean(self) -> float:
        """Variant minus control, with the inputs of both permuted."""
        return self.null - self.control_null

    @property
    def known(self) -> bool:
        """Whether there is a difference and its error."""
        return math.isfinite(self.mean) and math.isfinite(self.error)

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval around the difference, by Student's t: over seeds, or over replicates with one."""
        return half_width(self.error, self.n, self.degrees)

    @property
    def digits(self) -> int:
        """After the decimal point, in tables: those of the metric, or as many as its error needs to be seen."""
        return digits_for(self.error, self.metric.digits)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0: the difference is too large for its error to explain."""
        return self.known and abs(self.mean) > self.half_width

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
    """One for every variant that uses the order of tokens, or of which a control was evaluated."""
    temporal = {run.variant.partition("+")[0] for run in runs if run.uses_order or "+" in run.variant}
    found = []
    for label, group in grouped(runs).items():
        name = group[0].variant
        if name not in temporal:
            continue
        without, permuted = (_paired(group, runs, f"{name}+{control}") for control in (NO_TEMPORAL, PERMUTED))
        in_permuted_order = _paired([control for _, control in permuted], runs, f"{name}+{NO_TEMPORAL}")
        contrasts = (
            contrast(f"{name}+{control}", pairs)
            for control, pairs in ((NO_TEMPORAL, without), (PERMUTED, permuted), (NO_TEMPORAL, in_permuted_order))
        )
        found.append(Comparison(label, name, *contrasts))
    return found


def difference(pairs: Sequence[Pair], metric: Metric) -> Difference:
    """Compare a metric, over the pairs in which both runs have it."""
    pairs = [pair for pair in pairs if all(math.isfinite(run.number(metric.name)) for run in pair)]
    if not pairs:
        missing = math.nan
        return Difference(metric, missing, missing, missing, missing, missing, missing, 0)
    values, nulls = _numbers(pairs, metric.name), _numbers(pairs, f"{metric.name}_inputs_permuted")
    gains = values[:, 0] - values[:, 1]
    error, degrees = (gains.std(ddof=1), math.inf) if len(pairs) > 1 else _error_of_one(pairs[0], metric.name)
    (value, control), (null, control_null) = values.mean(axis=0).tolist(), nulls.mean(axis=0).tolist()
    return Difference(
        metric, value, control, null, control_null, float(gains.mean()), float(error), len(pairs), degrees
    )


def _error_of_one(pair: Pair, name: str) -> tuple[float, float]:
    """Standard error over documents of the difference of two runs, and its degrees of freedom.

    Runs that were evaluated on the same documents have replicates of the same resamples, whose differences lack what
    the documents did to both. Others are as if independent.
    """
    first, second = (run.replicates(name) for run in pair)
    if first and second and first.pairs_with(second):
        return standard_error(first.values - second.values), first.degrees
    degrees = min((each.degrees for each in (first, second) if each), default=math.inf)
    return float(np.linalg.norm(_numbers([pair], f"{name}_se"))), degrees


def contrast(control: str, pairs: Sequence[Pair]) -> Contrast | None:
    """Runs of a group against what has the name of a control; None without pairs."""
    if not pairs:
        return None
    differences = {metric.name: difference(pairs, metric) for metric in METRICS}
    return Contrast(pairs[0][0].group, control, tuple(pairs), differences)


def _paired(
    group: Sequence[EvaluatedRun], runs: Sequence[EvaluatedRun], control: str
) -> list[tuple[EvaluatedRun, EvaluatedRun]]:
    controls = {_shared(run): run for run in runs if run.variant == control}
    return [(run, controls[_shared(run)]) for run in group if _shared(run) in controls]


def _shared(run: EvaluatedRun) -> tuple[Setting, int | None, str]:
    """What a control has of its variant: all but temporal terms, parts and what the row is called."""
    row = {name: run.row.get(name) for name in ("optimizer", "sparsifier", "batches", "initialisation", "stopping")}
    objective = {name: of for name, of in run.row.get("objective", {}).items() if name not in ("temporal", "contrast")}
    return run.setting, run.k, json.dumps([row, objective], sort_keys=True)


def _numbers(pairs: Sequence[Pair], name: str) -> np.ndarray:
    """`[pairs, 2]`."""
    return np.array([[run.number(name) for run in pair] for pair in pairs], dtype=np.float64)
