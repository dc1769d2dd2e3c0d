"""The table of `bench.controls` in Markdown, from its rows alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.rows import computed_alike
from bench.shift import Shift, cell, shift
from stages.report.metric import METRICS

NULLS = {"_inputs_permuted": "inputs permuted", "_codes_permuted": "codes permuted"}
CONTROLS = ("no-temporal", "permuted")
Row = dict[str, Any]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    mean = f"{statistics.mean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def numbers(rows: Sequence[Row], variant: str, metric: str) -> dict[int, float]:
    """A metric of a variant by seed, where it exists."""
    of = {row["seed"]: row["summary"].get(metric) for row in rows if row["variant"] == variant}
    return {seed: value for seed, value in of.items() if value is not None}


def differences(rows: Sequence[Row], variant: str, control: str, metric: str) -> list[Shift]:
    """Variant minus control, seed by seed, where both were computed alike."""
    ours, theirs = (
        {row["seed"]: row for row in rows if row["variant"] == name} for name in (variant, f"{variant}+{control}")
    )
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    known = [pair for pair in pairs if all(each["summary"].get(metric) is not None for each in pair)]
    return [shift(pair, [1, -1], metric) for pair in known if computed_alike(*pair)]


def table(rows: Sequence[Row]) -> str:
    """Each variant's metrics with their nulls and standard deviations over seeds, then the paired differences to its
    controls with their intervals. Rows that a guard ended have no metrics: they are named first."""
    ended = [f"{row['variant']}, seed {row['seed']}: {row['ended'].splitlines()[0]}" for row in rows if "ended" in row]
    rows = [row for row in rows if "ended" not in row]
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = [*ended, ""] if ended else []
    lines += ["| metric | " + " | ".join(variants) + " |", "|---" * (len(variants) + 1) + "|"]
    counts = [str(sum(row["variant"] == variant for row in rows)) for variant in variants]
    lines.append("| seeds | " + " | ".join(counts) + " |")
    for metric, label in ((metric.name, metric.title) for metric in METRICS):
        for suffix, null in {"": "", **NULLS}.items():
            cells = [list(numbers(rows, variant, metric + suffix).values()) for variant in variants]
            if any(cells):
                name = f"{label}, {null}" if null else f"**{label}**"
                lines.append(f"| {name} | " + " | ".join(spread(cell) if cell else "" for cell in cells) + " |")
    for variant in variants:
        for control in CONTROLS:
            if f"{variant}+{control}" in variants:
                lines += ["", f"{variant} minus {variant}+{control}, paired by seed:", ""]
                lines += ["| metric | difference | n |", "|---|---|---|"]
                for each in METRICS:
                    found = differences(rows, variant, control, each.name)
                    if found:
                        lines.append(f"| {each.title} | {cell(found, each.digits)} | {len(found)} |")
    return "\n".join(lines)
