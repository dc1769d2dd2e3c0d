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
from stages.evaluate.task import TOGETHER
from stages.evaluate.versions import CORE, TEMPORAL, VERSIONS
from stages.report.metric import METRICS
from stages.sae.table import find_variant, load_variants
from stages.sae.variant import Variant
from stages.train.config import TrainConfig, make_config
from stages.train.guards import Collapse
from stages.train.identity import fingerprint
from stages.train.loop import train
from stages.train.run import TRAINING, Run, TrainResult
from store import ActivationStore
from store.files import write_json
from store.lock import Lock
from store.problem import Problem

ROOT = Path(__file__).parents[1]
ROWS = RESULTS / "rows"
STEPS = 8000
REPLICATED = {metric.name for metric in METRICS} | {"level0_smoothness"}
"""Numbers of which replicates are kept, so that differences have an error over documents."""


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
        outdated = [job.path.stem for job in jobs if job.path.exists() and not job.read()]
        if outdated:
            print(f"\nLeft out, as their code or parameters changed since: {', '.join(outdated)}.")
    else:
        fill(jobs, arguments.minutes)


def read_rows(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """The rows that are there and current, in the order of the jobs."""
    return [row for job in jobs if (row := job.read())]


def fill(jobs: Sequence[Job], minutes: float) -> None:
    """Measure rows until the time is over: those that are missing before those that are outdated.

    With `minutes` no row is begun that would take longer than what is left, if it took as long as the longest so far.
    Rows that another process is at are left to it. Several are evaluated at a time: what they are compared with,
    untrained SAEs and the activations themselves, takes more than half of the evaluation of one.
    """
    begun, longest, waiting = time.monotonic(), 0.0, []
    for job in sorted(jobs, key=lambda job: job.path.exists()):
        if (time.monotonic() - begun + longest) / 60 > minutes:
            print(f"no time left for {job.path.stem}")
            break
        started = time.monotonic()
        waiting += train_if_needed(job)
        if len(waiting) == TOGETHER:
            evaluate_together(waiting)
            waiting = []
        longest = max(longest, time.monotonic() - started)
    evaluate_together(waiting)


@dataclass(frozen=True)
class Trained:
    """A row whose training has ended."""

    job: Job
    """What was asked."""
    run: Run
    """Its training."""
    result: TrainResult | Collapse
    """What that came to."""
    lock: Lock
    """Held until the row is written."""


def train_if_needed(job: Job) -> list[Trained]:
    """Train a row; nothing if it is there, another process is at it, or it cannot be run, which is said."""
    try:
        lock = Lock(ROOT / "runs" / "rows" / job.path.stem, "row")
    except Problem:
        return []
    try:
        return _train(job, lock)
    except Problem as problem:
        lock.release()
        print(f"{job.path.stem} was not run: {problem}", flush=True)
        return []


def _train(job: Job, lock: Lock) -> list[Trained]:
    profile, config = read_params(ROOT).profile, job.config
    opened = store.open(store_of(config.variant.layers, profile))
    if job.read().get("store_fingerprint") == opened.manifest.fingerprint:
        lock.release()
        return []
    run = run_of(job, profile, opened)
    with console.progress() as progress:
        try:
            return [Trained(job, run, train(config, opened, run.layer, run.folder, progress), lock)]
        except Collapse as collapse:
            return [Trained(job, run, collapse, lock)]


def run_of(job: Job, profile: Profile, opened: ActivationStore) -> Run:
    """The training of a row, in its folder."""
    config = job.config
    run = Run.of(config, opened, layers_of(config.variant, profile, opened)[-1], Path())
    return replace(run, folder=Project(ROOT).run(profile, config.variant.name, config.seed, suffix_of(run.identity)))


def evaluate_together(rows: Sequence[Trained]) -> None:
    """Evaluate rows and write them. A training that a guard ended is a row too: it says why."""
    profile, project = read_params(ROOT).profile, Project(ROOT)
    for path in dict.fromkeys(row.run.store.path for row in rows):
        group = [row for row in rows if row.run.store.path == path and isinstance(row.result, TrainResult)]
        pairs = [(row.run.folder, project.results(profile, row.run.folder)) for row in group]
        with console.progress() as progress:
            found = evaluate(pairs, path, profile.model, profile.evaluate, progress=progress) if pairs else []
        for row, (_, results), evaluated in zip(group, pairs, found, strict=True):
            write_json(row.job.path, {**facts_of(row), **measured(row.run, results), "summary": evaluated.summary})
    for row in rows:
        if isinstance(row.result, Collapse):
            write_json(row.job.path, {**facts_of(row), "ended": str(row.result)})
        row.lock.release()
        print(f"{row.job.path.stem} is there", flush=True)


def store_of(layers: str, profile: Profile) -> Path:
    """The profile's store, or the one with the layers of its curriculum."""
    if layers == "one":
        return Project(ROOT).store(profile)
    return ROOT / "data" / "stores" / f"{profile.name}-L{'-'.join(map(str, profile.train.curriculum))}"


def facts_of(row: Trained) -> dict[str, Any]:
    """What was asked, of what, where."""
    run, config = row.run, row.run.config
    return {
        "variant": config.variant.name,
        "seed": config.seed,
        "sparsity": row.job.sparsity,
        "recipe": fingerprint(config, run.store.manifest.fingerprint, run.layer),
        "metrics_versions": VERSIONS,
        "store_fingerprint": run.store.manifest.fingerprint,
        "store_root": run.store.root,
        "layer": run.layer,
        "batch_rows": config.batch_rows,
        "d_sae": config.d_sae,
        "k": config.k,
        "parameters": config.variant.numbers,
        "machine": machine(),
    }


def measured(run: Run, results: Path) -> dict[str, Any]:
    """What the training and its evaluation left behind, beside the summary."""
    training = json.loads((run.folder / TRAINING).read_text())
    rates = json.loads(run.folder.with_name(f"{run.folder.name}.run.json").read_text())
    core, temporal = (json.loads((results / file).read_text()) for file in (CORE, TEMPORAL))
    replicates = core["eval_result_unstructured"]["replicates"] | temporal["replicates"]
    return {
        "plan": training["plan"],
        "seconds": round(rates["seconds"]) if rates["steps"] == training["steps_done"] else None,
        "stopped_by": training["stopped_by"],
        "final": training["final"],
        "lags": {name: scale["used"] for name, scale in temporal["scales"].items()},
        "pairs": temporal["pairs"],
        "autocorrelation": {name: of["autocorrelation"] for name, of in temporal["measures"].items()},
        "replicates": {name: values for name, values in replicates.items() if name in REPLICATED},
    }


def computed_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows saw the same activations and were trained in the same arithmetic."""
    keys = ("device", "gpu", "products", "cpu", "torch")
    same_plan = all(one["plan"].get(key) == other["plan"].get(key) for key in keys)
    return same_plan and one["store_root"] == other["store_root"]
