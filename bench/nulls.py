"""What the temporal metrics say of some rows, beside their nulls and references.

    python -m bench.nulls [ROW ...]     a table a row of seed 0, from the rows that are there

`inputs permuted` and `codes permuted` are the nulls; `untrained` is an SAE of the same kind and L0 before training,
`activations` the same statistic of what it reads; `gain` is trained minus untrained, each less its null of permuted
inputs.
"""

from __future__ import annotations

import argparse

from bench.rows import Job
from stages.evaluate.temporal.run import SUFFIXES

ROWS = ("topk", "warmup2000", "t-sae", "persistent")
COLUMNS = {suffix.removeprefix("_").replace("_", " "): suffix for suffix in SUFFIXES.values()}
COLUMNS = {title or "codes": suffix for title, suffix in COLUMNS.items()} | {"gain": "_gain"}


def table(name: str) -> str:
    """The table of a row in Markdown."""
    row = Job(name, 0).read()
    if "summary" not in row:
        return f"{name}: {row.get('ended', 'not run')}"
    summary = row["summary"]
    metrics = [metric for metric in summary if f"{metric}_untrained" in summary and not metric.startswith("probe")]
    lines = [f"`{name}`, L0 {summary['l0']:.1f}", "", "| metric | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for metric in metrics:
        values = [summary.get(metric + suffix) for suffix in COLUMNS.values()]
        cells = ["-" if value is None else f"{value:.4g}" for value in values]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=ROWS)
    print("\n\n".join(table(name) for name in parser.parse_args().rows))
