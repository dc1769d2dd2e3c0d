"""What the temporal part of five rows buys, and costs, at equal L0: three seeds, 8,000 steps.

    python -m bench.matched [--minutes M]     train and evaluate the rows that are missing, one after the other
    python -m bench.matched --table           print the table from the rows that are there

Each stands beside its own control, which has the same numbers and seed but no temporal terms and no part that needs
order. Where the two differ in L0 (events), the control's numbers are moved to the variant's L0 along a curve of three
sparsities of a per-token row with the same sparsifier, linear in log L0 between them. The curve is of one seed, as only
its slope counts. The second table does the same for what the T-SAE paper claims, at equal L0 of the high level alone.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.rows import Job, command, computed_alike
from stages.evaluate.levels import levels_of
from stages.evaluate.standard_error import half_width
from stages.report.metric import METRICS
from stages.report.numeral import digits_for

SEEDS = (0, 1, 2)
CURVE_SEED = 0
HIGH_LEVEL_L0 = "level0_l0"
HIGH_LEVEL = {
    "level0_smoothness": 4,
    "level0_smoothness_inputs_permuted": 4,
    "level0_explained_variance_centred": 4,
    "level0_alive": 3,
    HIGH_LEVEL_L0: 1,
}
"""Numbers of a summary about the latents of the high level, and their digits."""
NOT_RUN, ENDED, OUTSIDE, SILENT = "not run", "ended by a guard", "outside the curve", "silent"
"""Why there is no difference; `silent` is an L0 of 0, which has no logarithm, or a high level that has collapsed."""
Summary = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Rows of one sparsifier."""

    variants: tuple[str, ...]
    """Temporal rows."""
    curve: str
    """The per-token row of the curve."""
    sparsities: tuple[float, ...]
    """Its weights of L1, or k, beside the row's own."""

    @property
    def curve_jobs(self) -> list[Job]:
        """The rows of the curve."""
        return [Job(self.curve, CURVE_SEED, sparsity) for sparsity in (None, *self.sparsities)]

    @property
    def jobs(self) -> list[Job]:
        """All rows that it needs."""
        pairs = [name + control for name in self.variants for control in ("", "+no-temporal")]
        return list(dict.fromkeys([*self.curve_jobs, *(Job(name, seed) for seed in SEEDS for name in pairs)]))


FAMILIES = (
    Family(("warmup2000", "multiscale-conservative", "window3-balanced"), "baseline", (0.02, 0.08)),
    Family(("t-sae",), "t-sae+no-temporal", (16, 64)),
    Family(("persistent",), "persistent+no-temporal", (16, 64)),
)


def along_curve(curve: Sequence[Summary], metric: str, l0: float, axis: str) -> float:
    """A metric of the curve where its L0, named by `axis`, is `l0`; NaN outside of it."""
    points = sorted((math.log(summary[axis]), summary[metric]) for summary in curve)
    x, y = zip(*points, strict=True)
    return float(np.interp(math.log(l0), x, y, left=math.nan, right=math.nan))


def difference(variant: str, family: Family, seed: int, metric: str, axis: str = "l0") -> float | str:
    """Variant minus control at the variant's L0, or why there is none.

    That in L0 itself is before it was made equal.
    """
    jobs = [Job(variant, seed), Job(f"{variant}+no-temporal", seed), *family.curve_jobs]
    rows = [job.read() for job in jobs]
    if any("ended" in row for row in rows):
        return ENDED
    if not all("summary" in row and computed_alike(rows[0], row) for row in rows):
        return NOT_RUN
    own, control, *curve = [row["summary"] for row in rows]
    if any(summary.get(name) is None for summary in (own, control, *curve) for name in (metric, axis)):
        return NOT_RUN
    if not all(summary[axis] > 0 for summary in (own, control, *curve)):
        return SILENT
    if axis == HIGH_LEVEL_L0 and any(levels_of(summary)[0].collapsed for summary in (own, control)):
        return SILENT
    plain = float(own[metric] - control[metric])
    if metric == axis:
        return plain
    at_own, at_control = (along_curve(curve, metric, summary[axis], axis) for summary in (own, control))
    return plain - (at_own - at_control) if math.isfinite(at_own - at_control) else OUTSIDE


def cell(differences: Sequence[float | str], digits: int) -> str:
    """Mean and 95 % interval over seeds, by Student's t; marked where the interval excludes 0. Seeds without a
    difference are counted by the reason."""
    known = [value for value in differences if not isinstance(value, str)]
    reasons = Counter(value for value in differences if isinstance(value, str))
    missing = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if len(known) < 2:
        return missing
    mean, error = statistics.mean(known), statistics.stdev(known)
    half = half_width(error, len(known))
    digits = digits_for(half, digits)
    text = f"{mean:+.{digits}f} ± {half:.{digits}f}"
    text = f"**{text}**" if abs(mean) > half else text
    return f"{text} ({missing})" if missing else text


def table() -> str:
    """Differences in Markdown, a column a variant."""
    columns = [(variant, family) for family in FAMILIES for variant in family.variants]
    lines = ["| metric | " + " | ".join(name for name, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for metric in METRICS:
        found = [[difference(name, family, seed, metric.name) for seed in SEEDS] for name, family in columns]
        lines.append(f"| {metric.title} | " + " | ".join(cell(each, metric.digits) for each in found) + " |")
    family = next(family for family in FAMILIES if "t-sae" in family.variants)
    lines += ["", "| high level of t-sae minus that of its control, at equal L0 of the level | |", "|---|---|"]
    for name, digits in HIGH_LEVEL.items():
        differences = [difference("t-sae", family, seed, name, HIGH_LEVEL_L0) for seed in SEEDS]
        lines.append(f"| {name} | {cell(differences, digits)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command(__doc__, [job for family in FAMILIES for job in family.jobs], table)
