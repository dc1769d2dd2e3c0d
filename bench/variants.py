"""Every row of the table of variants at one size: seed 0, 8,000 steps, the current profile's store.

    python -m bench.variants [--minutes M]     train and evaluate the rows that are missing, one after the other
    python -m bench.variants --table           print the table from the rows that are there

What an SAE explains depends on its L0, so rows also stand beside what the per-token row `baseline` has at theirs, along
its three sparsities of `bench.matched`.

`window3-lowmem` needs a store with the layers of its curriculum:
    pipeline harvest --layer 5 --layer 8 --layer 11 --store data/stores/embedded-L5-8-11
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.matched import FAMILIES, shares_along
from bench.rows import ROOT, Job, command, computed_alike, read_rows
from stages.evaluate.levels import levels_of
from stages.report.metric import FSM, TCS
from stages.sae.table import load_variants

SEED = 0
EXPLAINED, ACTIVE = 0.5, (5, 300)
"""Explained variance that every row should exceed, and L0 between which it should lie."""
NULLS = ("", "_inputs_permuted", "_codes_permuted")
(CURVE,) = (family.curve_jobs for family in FAMILIES if family.curve == "baseline")
"""The per-token row at three sparsities."""
OVER_CURVE = ("explained_variance_centred", "ce_loss_score")


def names() -> list[str]:
    """All rows but controls."""
    return [name for name, row in load_variants(ROOT / "variants.yaml").items() if row.control is None]


def line(name: str, row: dict[str, Any], curve: Sequence[dict[str, Any]]) -> list[str]:
    """A row of the table: what was done, what it gave, also over the curve, each temporal metric beside its nulls."""
    if not row:
        return [name, "not run"]
    if "ended" in row:
        return [name, row["ended"].splitlines()[0]]
    summary = row["summary"]

    def number(metric: str, form: str) -> str:
        value = summary.get(metric)
        return "-" if value is None else format(value, form)

    steps = f"{summary['steps_done']:,} of {summary['steps_planned']:,}"
    minutes = "-" if row["seconds"] is None else f"{row['seconds'] / 60:.0f}"
    facts = [steps, row["stopped_by"] or "", minutes, number("explained_variance_centred", ".4f"), number("l0", ".1f")]
    facts += [number("l0_codes", ".1f"), number("dead_latents", ".0f"), number("ce_loss_score", ".4f")]
    facts.append(" / ".join(over_curve(row, curve, metric) for metric in OVER_CURVE))
    return [name, *facts, *(" / ".join(number(m.name + null, ".4f") for null in NULLS) for m in (*TCS, FSM[0]))]


def over_curve(row: dict[str, Any], curve: Sequence[dict[str, Any]], metric: str) -> str:
    """A metric minus that of the curve at the row's L0; - outside of the curve, and where that is not all there."""
    if len(curve) < len(CURVE) or not all(computed_alike(row, point) for point in curve):
        return "-"
    points = [point["summary"] for point in curve]
    at = shares_along([point["l0"] for point in points], row["summary"]["l0"]) @ [point[metric] for point in points]
    return f"{row['summary'][metric] - at:+.4f}" if math.isfinite(at) else "-"


def table() -> str:
    """The table in Markdown."""
    heads = ["row", "steps", "stopped by", "minutes", "explained variance", "L0", "L0 of codes", "dead", "CE score"]
    heads.append("explained variance / CE score over `baseline` at this L0")
    heads += [f"{metric.title} / inputs permuted / codes permuted" for metric in (*TCS, FSM[0])]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    rows, curve = {row["variant"]: row for row in read_rows(Job(name, SEED) for name in names())}, read_rows(CURVE)
    lines += ["| " + " | ".join(line(name, rows.get(name, {}), curve)) + " |" for name in names()]
    missing = [name for name, row in rows.items() if not meets(row)]
    lines += ["", f"Outside of explained variance > {EXPLAINED} and L0 in {ACTIVE[0]}..{ACTIVE[1]}: "]
    lines[-1] += ", ".join(missing) or "none of these rows"
    levels = [
        f"- `{name}`, {level.title}: {level.text}"
        for name, row in rows.items()
        for level in levels_of(row.get("summary", {}))
    ]
    return "\n".join([*lines, "", *levels])


def meets(row: dict[str, Any]) -> bool:
    """Whether a row is what the table asks of all of them."""
    summary = row.get("summary", {})
    enough = (summary.get("explained_variance_centred") or 0.0) > EXPLAINED
    return enough and ACTIVE[0] <= (summary.get("l0") or 0.0) <= ACTIVE[1]


if __name__ == "__main__":
    command(__doc__, [Job(name, SEED) for name in names()], table)
