"""Trained and evaluated rows of the table of variants, each one small JSON in `bench/results/rows/`.

A row is measured again where its code, its parameters or what was asked of the store have changed, and its evaluation
where the versions of that have. Rows of several kinds of machine, each of which makes a store with its own roundings,
stand in one table; what is compared row by row was computed alike. A row that was interrupted goes on where its
training stopped. Tables are built from these files alone.

Several processes share the work, each with the threads that it is given:
    OMP_NUM_THREADS=1 python -m bench.controls & OMP_NUM_THREADS=1 python -m bench.controls
On two cores that takes 0.8 of the time that one process with two threads takes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
from stages.sae.variant import Variant
from stages.train.config import TrainConfig, make_config
from stages.train.identity import fingerprint
from stages.train.loop import train
from stages.train.run import Run
from store.files import write_json
from store.lock import Lock
from store.problem import Problem

ROOT = Path(__file__).parents[1]
ROWS = RESULTS / "rows"
STEPS = 8000


@dataclass(frozen=True)
class Job:
    """A row to measure."""

    variant: str
    """Name of the row of `variants.yaml`, or of a control of one."""
    seed: int
    """Of its training."""
    sparsity: float | None = None
    """k, or the weight of L1 where the sparsifier has none; None for that of the row."""

    @property
    def path(self) -> Path:
        """Where its numbers are kept."""
        sparsity = "" if self.sparsity is None else f"-sparsity{self.sparsity:g}"
        return ROWS / f"{self.variant}{sparsity}-seed{self.seed}.json"

    @property
    def config(self) -> TrainConfig:
        """Its training."""
        row = find_variant(_variants(), self.variant)
        sizes = read_params(ROOT).profile.train
        if self.sparsity is not None and "topk" in row.sparsifier.kind:
            sizes = replace(sizes, k=int(self.sparsity))
        elif self.sparsity is not None:
            row = replace(row, objective=replace(row.objective, l1=self.sparsity))
        return make_config(row, sizes, seed=self.seed, steps=STEPS)

    def read(self) -> dict[str, Any]:
        """What is kept of it, if that is of the present code and parameters; empty otherwise."""
        try:
            row: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        recipe = fingerprint(self.config, row["store_fingerprint"], row["layer"])
        return row if (row["recipe"], row["metrics_versions"]) == (recipe, VERSIONS) else {}


@cache
def _variants() -> dict[str, Variant]:
    return load_variants(ROOT / "variants.yaml")


def command(description: str | None, jobs: Sequence[Job], table: Callable[[], str]) -> None:
    """The command line of a table: `--table` prints it, otherwise its missing rows are measured."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
    else:
        fill(jobs, arguments.minutes)


def read_rows(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """The rows that are there and current, in the order of the jobs."""
    return [row for job in jobs if (row := job.read())]


def fill(jobs: Sequence[Job], minutes: float) -> None:
    """Measure rows of variants and seeds until the time is over: those that are missing before those that are outdated.

    With `minutes` no row is begun that would take longer than what is left, if it took as long as the longest so far.
    Rows that another process is at are left to it.
    """
    begun, longest = time.monotonic(), 0.0
    for job in sorted(jobs, key=lambda job: job.path.exists()):
        if (time.monotonic() - begun + longest) / 60 > minutes:
            print(f"no time left for {job.path.stem}")
            return
        started = time.monotonic()
        if measure_if_needed(job):
            longest = max(longest, time.monotonic() - started)
            print(f"{job.path.stem}: {time.monotonic() - started:.0f} s", flush=True)


def measure_if_needed(job: Job) -> bool:
    """Measure a row unless it is there, or another process is at it; whether that was done."""
    try:
        lock = Lock(ROOT / "runs" / "rows" / job.path.stem, "row")
    except Problem:
        return False
    try:
        profile, config = read_params(ROOT).profile, job.config
        opened = store.open(store_of(config.variant.layers, profile))
        if job.read().get("store_fingerprint") == opened.manifest.fingerprint:
            return False
        run = Run.of(config, opened, layers_of(config.variant, profile, opened)[-1], Path())
        write_json(job.path, {**measure(run, profile), "sparsity": job.sparsity})
        return True
    finally:
        lock.release()


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
        "recipe": fingerprint(config, run.store.manifest.fingerprint, run.layer),
        "metrics_versions": VERSIONS,
        "store_fingerprint": run.store.manifest.fingerprint,
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
        "plan": trained.training["plan"],
        "seconds": round(rates["seconds"]) if trained.did == "trained" else None,
        "stopped_by": trained.training["stopped_by"],
        "final": trained.training["final"],
        "summary": result.summary,
        "lags": {name: scale["used"] for name, scale in temporal["scales"].items()},
        "pairs": temporal["pairs"],
        "autocorrelation": {name: of["autocorrelation"] for name, of in temporal["measures"].items()},
    }


def computed_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows saw the same activations and were trained in the same arithmetic."""
    same_plan = all(one["plan"][key] == other["plan"][key] for key in ("device", "products", "cpu", "torch"))
    return same_plan and one["store_root"] == other["store_root"]
