"""Every row of the table of variants at one size: seed 0, 8,000 steps, the current profile's store.

    python -m bench.variants [--minutes M]     train and evaluate the rows that are missing, one after the other
    python -m bench.variants --table           print the table from the rows that are there

`window3-lowmem` needs a store with the layers of its curriculum:
    pipeline harvest --layer 5 --layer 8 --layer 11 --store data/stores/embedded-L5-8-11
"""

from __future__ import annotations

from typing import Any

from bench.rows import ROOT, Job, command, read_rows
from stages.evaluate.levels import levels_of
from stages.report.metric import FSM, TCS
from stages.sae.table import load_variants

SEED = 0
EXPLAINED, ACTIVE = 0.5, (5, 300)
"""Explained variance that every row should exceed, and L0 between which it should lie."""
NULLS = ("", "_inputs_permuted", "_codes_permuted")


def names() -> list[str]:
    """All rows but controls."""
    return [name for name, row in load_variants(ROOT / "variants.yaml").items() if row.control is None]


def line(name: str, row: dict[str, Any]) -> list[str]:
    """A row of the table: what was done, what it gave, each temporal metric beside its nulls."""
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
    return [name, *facts, *(" / ".join(number(m.name + null, ".4f") for null in NULLS) for m in (*TCS, FSM[0]))]


def table() -> str:
    """The table in Markdown."""
    heads = ["row", "steps", "stopped by", "minutes", "explained variance", "L0", "L0 of codes", "dead", "CE score"]
    heads += [f"{metric.title} / inputs permuted / codes permuted" for metric in (*TCS, FSM[0])]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    rows = {row["variant"]: row for row in read_rows(Job(name, SEED) for name in names())}
    lines += ["| " + " | ".join(line(name, rows.get(name, {}))) + " |" for name in names()]
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
