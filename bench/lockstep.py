"""Trainings in lockstep beside the same trainings one after the other: the ratio of their times.

    python -m bench.lockstep [--rounds 5] [--steps 40]

Whole trainings, from opening the store to the saved SAE, in folders that are dropped; the order of the two alternates.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import store
from bench.machine import record
from bench.train import ROOT
from pipeline.params import read_params
from pipeline.paths import Project
from stages.sae.table import load_variants
from stages.train.config import make_config
from stages.train.loop import train_together
from stages.train.run import Run
from store import ActivationStore

VARIANTS = ("topk", "batchtopk", "jumprelu", "matryoshka")
WARMUP = 10


def runs_in(folder: Path, opened: ActivationStore, steps: int) -> list[Run]:
    """The trainings, their schedules shortened to the steps."""
    sizes, table = read_params(ROOT).profile.train, load_variants(ROOT / "variants.yaml")
    found = []
    for name in VARIANTS:
        row = table[name]
        row = replace(row, optimizer=replace(row.optimizer, warmup=WARMUP))
        row = replace(row, objective=replace(row.objective, l1_warmup=min(row.objective.l1_warmup, WARMUP)))
        config = make_config(row, sizes, seed=0, steps=steps)
        found.append(Run.of(config, opened, max(opened.layers), folder / name))
    return found


def seconds(opened: ActivationStore, steps: int, together: bool) -> float:
    """Of all trainings."""
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_in(Path(folder), opened, steps)
        begun = time.perf_counter()
        for group in [runs] if together else [[run] for run in runs]:
            failures = [result for result in train_together(group) if isinstance(result, Exception)]
            if failures:
                raise failures[0]
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    opened = store.open(Project(ROOT).store(read_params(ROOT).profile))
    seconds(opened, WARMUP * 2, together=True)
    rounds = []
    for index in range(arguments.rounds):
        order = (True, False) if index % 2 else (False, True)
        rounds.append({together: seconds(opened, arguments.steps, together) for together in order})
    ratios = [each[True] / each[False] for each in rounds]
    figures = {"variants": VARIANTS, "rounds": arguments.rounds, "steps": arguments.steps}
    figures |= {"seconds_together": round(statistics.median(each[True] for each in rounds), 2)}
    figures |= {"seconds_one_by_one": round(statistics.median(each[False] for each in rounds), 2)}
    figures |= {"ratio": round(statistics.median(ratios), 3)}
    record("lockstep", {**figures, "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)]})


if __name__ == "__main__":
    main()
