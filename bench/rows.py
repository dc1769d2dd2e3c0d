"""Trained and evaluated rows of the table of variants, each one small JSON in `bench/results/rows/`.

A row is measured again where its code, parameters or store have changed: its fingerprint is that of its training, and
the files of its evaluation carry versions, of which those that are current are kept. A row that was interrupted goes
on where its training stopped. Tables are built from these files alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import store
from bench.machine import RESULTS, machine
from pipeline import console
from pipeline.params import Profile, read_params
from pipeline.paths import Project, suffix_of
from pipeline.train import layers_of
from stages.evaluate.run import evaluate
from stages.evaluate.versions import TEMPORAL, VERSIONS
from stages.sae.table import find_variant, load_variants
from stages.train.config import make_config
from stages.train.loop import train
from stages.train.run import Run
from store.files import write_json
from store.problem import Problem

ROOT = Path(__file__).parents[1]
ROWS = RESULTS / "rows"
STEPS = 8000


def command(description: str | None, jobs: Sequence[tuple[str, int]], table: Callable[[], str]) -> None:
    """The command line of a table: `--table` prints it, otherwise its missing rows are measured."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
    else:
        fill(jobs, arguments.minutes)


def read_rows(variants: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The rows that are there, variant by variant."""
    return [row for variant in variants for seed in seeds if (row := read_row(row_path(variant, seed)))]


def row_path(variant: str, seed: int) -> Path:
    """Where a row is kept."""
    return ROWS / f"{variant}-seed{seed}.json"


def read_row(path: Path) -> dict[str, Any]:
    """A row; empty where there is none."""
    try:
        row: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return row


def fill(jobs: Sequence[tuple[str, int]], minutes: float) -> None:
    """Measure rows of variants and seeds until the time is over: those that are missing before those that are outdated.

    With `minutes` no row is begun that would take longer than what is left, if it took as long as the longest so far.
    """
    profile = read_params(ROOT).profile
    variants = load_variants(ROOT / "variants.yaml")
    begun, longest = time.monotonic(), 0.0
    for variant, seed in sorted(jobs, key=lambda job: row_path(*job).exists()):
        row = find_variant(variants, variant)
        opened = store.open(store_of(row.layers, profile))
        config = make_config(row, profile.train, seed=seed, steps=STEPS)
        run = Run.of(config, opened, layers_of(row, profile, opened)[-1], Path())
        path, present = row_path(variant, seed), read_row(row_path(variant, seed))
        if (present.get("fingerprint"), present.get("metrics_versions")) == (run.identity, VERSIONS):
            continue
        if (time.monotonic() - begun + longest) / 60 > minutes:
            print(f"no time left for {path.name}")
            return
        started = time.monotonic()
        write_json(path, measure(run, profile))
        longest = max(longest, time.monotonic() - started)
        print(f"{path.name}: {time.monotonic() - started:.0f} s", flush=True)


def store_of(layers: str, profile: Profile) -> Path:
    """The profile's store, or the one with the layers of its curriculum."""
    if layers == "one":
        return Project(ROOT).store(profile)
    return ROOT / "data" / "stores" / f"{profile.name}-L{'-'.join(map(str, profile.train.curriculum))}"


def measure(run: Run, profile: Profile) -> dict[str, Any]:
    """Train and evaluate one row. A training that a guard ends is a row too: it says why."""
    project, config = Project(ROOT), run.config
    folder = project.run(profile, config.variant.name, config.seed, suffix_of(run.identity))
    facts = {
        "variant": config.variant.name,
        "seed": config.seed,
        "fingerprint": run.identity,
        "metrics_versions": VERSIONS,
        "store_root": run.store.root,
        "layer": run.layer,
        "batch_rows": config.batch_rows,
        "machine": machine(),
    }
    with console.progress() as progress:
        try:
            trained = train(config, run.store, run.layer, folder, progress)
        except Problem as problem:
            return {**facts, "ended": str(problem)}
        results = project.results(profile, folder)
        (result,) = evaluate([(folder, results)], run.store.path, profile.model, profile.evaluate, progress=progress)
    temporal = json.loads((results / TEMPORAL).read_text())
    rates = json.loads(folder.with_name(f"{folder.name}.run.json").read_text())
    return {
        **facts,
        "seconds": round(rates["seconds"]) if trained.did == "trained" else None,
        "stopped_by": trained.training["stopped_by"],
        "final": trained.training["final"],
        "summary": result.summary,
        "lags": {name: scale["used"] for name, scale in temporal["scales"].items()},
        "pairs": temporal["pairs"],
        "autocorrelation": {name: of["autocorrelation"] for name, of in temporal["measures"].items()},
    }
