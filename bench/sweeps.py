"""What the sweeps of sweeps.yaml came to: 2,000 steps a cell, seed 0, the current profile's store.

    python -m bench.sweeps NAME [NAME ...]     run sweeps to their end and keep their numbers
    python -m bench.sweeps --table [NAME ...]  print the tables of those that were kept

A sweep that was interrupted goes on, and cells whose code or parameters changed are trained again, as with `pipeline
sweep`. What is kept of a cell are the numbers that its experiment has, and those of its levels.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import store
from bench.machine import RESULTS, machine
from pipeline import sweep
from pipeline.params import read_params
from pipeline.paths import Project
from stages.sweep.outcome import METRICS
from store.files import write_json

ROOT = Path(__file__).parents[1]
FOLDER = RESULTS / "sweeps"
LEVEL = re.compile(r"level\d+_")


def run(name: str) -> None:
    """Run a sweep to its end, and keep `bench/results/sweeps/NAME.json`."""
    sweep.run(name, profile=None, folder=None, model=None, dry=False, json=False)
    project, profile = Project(ROOT), read_params(ROOT).profile
    found = json.loads((project.sweep(profile, name) / sweep.TABLE).read_text())
    opened = store.open(project.store(profile))
    cells = [cell | {"summary": kept(cell["summary"])} for cell in found["cells"]]
    write_json(FOLDER / f"{name}.json", {"machine": machine(), "store": opened.root, **found, "cells": cells})


def kept(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is kept of the numbers of an evaluation."""
    return summary and {key: value for key, value in summary.items() if key in METRICS or LEVEL.match(key)}


def table(name: str) -> str:
    """A sweep that was kept, in Markdown."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return f"{name}: not run"
    found = json.loads(path.read_text())
    columns, rows, _ = sweep.table_of(found["cells"])
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"`{name}`: {found['asks']}", "", *("| " + " | ".join(line) + " |" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--table", action="store_true", help="print, run nothing")
    arguments = parser.parse_args()
    if arguments.table:
        names = arguments.names or sorted(path.stem for path in FOLDER.glob("*.json"))
        print("\n\n".join(map(table, names)))
        return
    for name in arguments.names:
        run(name)


if __name__ == "__main__":
    main()
