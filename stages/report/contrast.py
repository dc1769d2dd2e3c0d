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
from stages.evaluate.standard_error import half_width_of_both, standard_error
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
    of_documents: float
    """Standard error of the mean over documents, which all pairs share; NaN if unknown."""
    degrees: float
    """Degrees of freedom of that error."""
    spread: float
    """Standard deviation of the differences over seeds; NaN of one."""
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
    def error(self) -> float:
        """Standard error of the mean: over documents, and where there are several seeds over these too. NaN if it is
        unknown; with several seeds, documents whose error is unknown count as none."""
        if self.n == 1:
            return self.of_documents
        return math.hypot(self.spread / math.sqrt(max(self.n, 1)), np.nan_to_num(self.of_documents))

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval around the difference."""
        return half_width_of_both(self.spread, self.n, self.of_documents, self.degrees)

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
    seeds: tuple[int, ...]
    """Of its trainings."""
    steps: float
    """That they were to do."""
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
        seeds = tuple(run.seed for run in group if run.seed is not None)
        found.append(Comparison(label, name, seeds, group[0].setting.steps, *contrasts))
    return found


def difference(pairs: Sequence[Pair], metric: Metric) -> Difference:
    """Compare a metric, over the pairs in which both runs have it."""
    pairs = [pair for pair in pairs if all(math.isfinite(run.number(metric.name)) for run in pair)]
    if not pairs:
        missing = math.nan
        return Difference(metric, missing, missing, missing, missing, missing, missing, math.inf, missing, 0)
    values, nulls = _numbers(pairs, metric.name), _numbers(pairs, f"{metric.name}_inputs_permuted")
    gains = values[:, 0] - values[:, 1]
    spread = float(gains.std(ddof=1)) if len(pairs) > 1 else math.nan
    (value, control), (null, control_null) = values.mean(axis=0).tolist(), nulls.mean(axis=0).tolist()
    errors = _error_of_documents(pairs, metric.name)
    return Difference(metric, value, control, null, control_null, float(gains.mean()), *errors, spread, len(pairs))


def _error_of_documents(pairs: Sequence[Pair], name: str) -> tuple[float, float]:
    """Standard error over documents of the mean difference, and its degrees of freedom.

    Runs that were evaluated on the same documents have replicates of the same resamples, whose differences lack what
    the documents did to both. Other runs of a pair are as if independent; as more seeds are no more documents, the
    error of several such pairs is the mean of theirs.
    """
    found = [run.replicates(name) for pair in pairs for run in pair]
    known = [each for each in found if each]
    if len(known) == len(found) and all(each.pairs_with(known[0]) for each in known):
        gains = [first.values - second.values for first, second in zip(known[::2], known[1::2], strict=True)]
        return standard_error(np.mean(gains, axis=0)), known[0].degrees
    degrees = min((each.degrees for each in known), default=math.inf)
    return float(np.linalg.norm(_numbers(pairs, f"{name}_se"), axis=1).mean()), degrees


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
