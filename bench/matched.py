"""What the temporal part of five rows buys, and costs, at equal L0: three seeds, 8,000 steps.

    python -m bench.matched [--minutes M]     train and evaluate the rows that are missing, one after the other
    python -m bench.matched --table           print the table from the rows that are there

Each stands beside its own control, which has the same numbers and seed but no temporal terms and no part that needs
order. Where the two differ in L0 (events), the control's numbers are moved to the variant's L0 along a curve of three
sparsities of a per-token row with the same sparsifier, linear in log L0 between them. The curve is of one seed, as only
its slope counts. Intervals are over seeds and over documents. The second table does the same for what the T-SAE paper
claims, at equal L0 of the high level alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bench.rows import Job, command, computed_alike
from bench.shift import Shift, cell, shift
from stages.evaluate.levels import levels_of
from stages.report.metric import METRICS

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


def shares_along(curve: Sequence[float], l0: float) -> Float[np.ndarray, " curve"]:
    """How much each point of a curve, given by its L0, has in a number of it at `l0`; NaN outside of it."""
    x = np.log(curve)
    order = np.argsort(x)
    points = np.eye(len(curve))[:, order]
    return np.array([np.interp(math.log(l0), x[order], point, left=math.nan, right=math.nan) for point in points])


def difference(variant: str, family: Family, seed: int, metric: str, axis: str = "l0") -> Shift | str:
    """Variant minus control at the variant's L0, or why there is none.

    That in L0 itself is before it was made equal.
    """
    jobs = [Job(variant, seed), Job(f"{variant}+no-temporal", seed), *family.curve_jobs]
    rows = [job.read() for job in jobs]
    if any("ended" in row for row in rows):
        return ENDED
    if not all("summary" in row and computed_alike(rows[0], row) for row in rows):
        return NOT_RUN
    summaries: list[Summary] = [row["summary"] for row in rows]
    if any(summary.get(name) is None for summary in summaries for name in (metric, axis)):
        return NOT_RUN
    if not all(summary[axis] > 0 for summary in summaries):
        return SILENT
    if axis == HIGH_LEVEL_L0 and any(levels_of(summary)[0].collapsed for summary in summaries[:2]):
        return SILENT
    own, control, *curve = (summary[axis] for summary in summaries)
    moved = np.zeros(len(curve)) if metric == axis else shares_along(curve, own) - shares_along(curve, control)
    if not np.isfinite(moved).all():
        return OUTSIDE
    return shift(rows, [1, -1, *-moved], metric)


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
