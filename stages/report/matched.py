"""Temporal variants beside SAEs of single tokens that are as sparse.

Nearly every metric moves with L0, so a variant is compared with per-token SAEs of its setting (seed, steps, tokens a
step, latents, store, layer) whose L0 (events) is within 10 %; what is left of the difference in L0 is not corrected.
Where there is none, numbers are interpolated between the two nearest runs of one family, one sparser and one denser,
that differ in k or in the weight of their sparsity term alone. That takes a metric as linear in the logarithm of L0
between them; how far it bends there is in no error. Where both sides have replicates, be it interpolated ones, errors
are of the difference on the same documents; elsewhere the sides are taken as independent. Where several per-token SAEs
match, each metric is set against the one that is best in it, a choice after the fact that favours them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from stages.evaluate.replicates import Replicates
from stages.report.contrast import Comparison, Contrast, Difference, Numbered, contrast
from stages.report.evaluated_run import WORDS, EvaluatedRun, grouped
from stages.report.metric import METRICS, Metric

CLOSE = 0.1
"""By this share more or fewer active latents, and two SAEs are equally sparse."""


@dataclass(frozen=True)
class Between:
    """What a family of per-token SAEs would have at an L0 between those of two of its runs."""

    sparser: EvaluatedRun
    """The run below."""
    denser: EvaluatedRun
    """The run above."""
    l0: float
    """Where between them."""

    @property
    def share(self) -> float:
        """How far it is from the sparser to the denser run in the logarithm of L0, from 0 to 1."""
        low, high = self.sparser.number("l0"), self.denser.number("l0")
        return math.log(self.l0 / low) / math.log(high / low)

    def number(self, name: str) -> float:
        """A number of the summary, interpolated; a standard error from those of the two."""
        if name == "l0":
            return self.l0
        low, high = (1 - self.share) * self.sparser.number(name), self.share * self.denser.number(name)
        return math.hypot(low, high) if name.endswith("_se") else low + high

    def replicates(self, name: str) -> Replicates | None:
        """The same in resamples of the documents, at the place between the two that their L0 in the sample gives."""
        low, high = self.sparser.replicates(name), self.denser.replicates(name)
        if not (low and high and low.pairs_with(high)):
            return None
        return Replicates(low.drawn, (1 - self.share) * low.values + self.share * high.values)


@dataclass(frozen=True)
class Matched:
    """A temporal variant against all per-token SAEs that are as sparse."""

    variant: str
    """Label of the variant's group."""
    l0: float
    """Its L0, the mean over seeds."""
    contrasts: tuple[Contrast, ...]
    """Against each of them; none where nothing is as sparse."""
    nearest: EvaluatedRun | None
    """The per-token run whose L0 is nearest by its logarithm; None where there is none of the same setting."""

    @property
    def differences(self) -> list[tuple[Contrast, Difference]]:
        """Metric by metric that to the per-token SAE that is best in it, of those with the most seeds."""
        return [best for metric in METRICS if metric.better and (best := self._best(metric))]

    def _best(self, metric: Metric) -> tuple[Contrast, Difference] | None:
        found = [(each, each.differences[metric.name]) for each in self.contrasts]
        known = [(each, d) for each, d in found if math.isfinite(d.mean)]
        return max(known, key=lambda pair: (pair[1].n, metric.better * pair[1].control), default=None)


def matched(runs: Sequence[EvaluatedRun], comparisons: Sequence[Comparison]) -> list[Matched]:
    """One for each temporal variant."""
    groups = grouped(runs)
    return [_matched(groups[comparison.variant], runs) for comparison in comparisons]


def _matched(group: Sequence[EvaluatedRun], runs: Sequence[EvaluatedRun]) -> Matched:
    pairs: dict[str, list[tuple[EvaluatedRun, Numbered]]] = {}
    for run in group:
        for name, other in references(run, runs).items():
            pairs.setdefault(name, []).append((run, other))
    contrasts = (contrast(name, members) for name, members in pairs.items())
    l0 = sum(run.number("l0") for run in group) / len(group)
    others = [other for run in group for other in _comparable(run, runs)]
    nearest = min(others, key=lambda other: abs(math.log(other.number("l0") / l0)), default=None)
    return Matched(group[0].group, l0, tuple(each for each in contrasts if each), nearest)


def references(run: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> dict[str, Numbered]:
    """By name, the per-token SAEs that are as sparse as a run; interpolated ones only where no other is."""
    l0, others = run.number("l0"), _comparable(run, runs)
    close: dict[str, Numbered] = {other.group: other for other in others if abs(other.number("l0") / l0 - 1) <= CLOSE}
    return close or _between(l0, others)


def _between(l0: float, others: Sequence[EvaluatedRun]) -> dict[str, Numbered]:
    """By the names of its ends, each family that has runs on both sides of an L0."""
    families: dict[str, list[EvaluatedRun]] = {}
    for other in sorted(others, key=lambda run: run.number("l0")):
        families.setdefault(_family(other), []).append(other)
    found: dict[str, Numbered] = {}
    for members in families.values():
        below = [run for run in members if run.number("l0") < l0]
        above = [run for run in members if run.number("l0") > l0]
        if below and above:
            found[f"between {below[-1].group} and {above[0].group}"] = Between(below[-1], above[0], l0)
    return found


def _comparable(run: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Per-token SAEs of a run's setting that fire at all; none where it does not itself."""
    if not run.number("l0") > 0:
        return []
    return [other for other in runs if other.per_token and other.setting == run.setting and other.number("l0") > 0]


def _family(run: EvaluatedRun) -> str:
    """What per-token SAEs have in common that differ in k, or in the weight of their sparsity term, alone."""
    row = {key: value for key, value in run.row.items() if key not in WORDS}
    row["objective"] = {key: value for key, value in row["objective"].items() if key not in ("l1", "l0")}
    return json.dumps([row, run.facts["training"]["d_sae"]], sort_keys=True)
