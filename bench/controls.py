"""What the temporal terms of `warmup2000` are worth: the variant and its controls, three seeds, 8,000 steps.

    python -m bench.controls [--minutes M]     train and evaluate the rows that are missing, one after the other
    python -m bench.controls --table           print the table from the rows that are there

A row is one small JSON in `bench/results/controls/`. It is measured again where its code, parameters or store have
changed: its fingerprint is that of its training, and evaluations carry a version. A row that was interrupted goes on
where its training stopped. With `--minutes` no row is begun that could not end in time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import store
from bench.controls_table import table
from bench.machine import RESULTS, machine
from pipeline import console
from pipeline.params import Profile, read_params
from pipeline.paths import Project, suffix_of
from stages.evaluate.output import TEMPORAL
from stages.evaluate.run import METRICS_VERSION, evaluate
from stages.sae.table import find_variant, load_variants
from stages.train.config import TrainConfig, make_config
from stages.train.loop import train
from stages.train.plan import fingerprint
from store import ActivationStore
from store.files import write_json

ROOT = Path(__file__).parents[1]
ROWS = RESULTS / "controls"
VARIANTS = ("warmup2000", "warmup2000+no-temporal", "warmup2000+permuted", "baseline", "topk")
SEEDS = (0, 1, 2)
STEPS = 8000


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


def current(row: dict[str, Any], identity: str) -> bool:
    """Whether a row is what its code, parameters and store would give now."""
    return (row.get("fingerprint"), row.get("metrics_version")) == (identity, METRICS_VERSION)


def measure(config: TrainConfig, identity: str, opened: ActivationStore, profile: Profile) -> dict[str, Any]:
    """Train and evaluate one row."""
    project = Project(ROOT)
    run = project.run(profile, config.variant.name, config.seed, suffix_of(identity))
    results = project.results(profile, run)
    with console.progress() as progress:
        begun = time.perf_counter()
        trained = train(config, opened, max(opened.layers), run, progress)
        seconds = time.perf_counter() - begun
        (result,) = evaluate([(run, results)], opened.path, profile.model, profile.evaluate, progress=progress)
    temporal = json.loads((results / TEMPORAL).read_text())
    return {
        "variant": config.variant.name,
        "seed": config.seed,
        "fingerprint": identity,
        "metrics_version": METRICS_VERSION,
        "store_root": opened.root,
        "machine": machine(),
        "seconds": round(seconds) if trained.did == "trained" else None,
        "final": trained.training["final"],
        "summary": result.summary,
        "lags": {name: scale["used"] for name, scale in temporal["scales"].items()},
        "pairs": temporal["pairs"],
        "autocorrelation": {name: of["autocorrelation"] for name, of in temporal["measures"].items()},
    }


def fill(minutes: float) -> None:
    """Measure what is missing, seed by seed, until the time is over."""
    profile = read_params(ROOT).profile
    variants = load_variants(ROOT / "variants.yaml")
    opened = store.open(Project(ROOT).store(profile))
    opened.check()
    begun, longest = time.monotonic(), 0.0
    for seed in SEEDS:
        for name in VARIANTS:
            config = make_config(find_variant(variants, name), profile.train, seed=seed, steps=STEPS)
            identity = fingerprint(config, opened, max(opened.layers))
            path = row_path(name, seed)
            if current(read_row(path), identity):
                continue
            if (time.monotonic() - begun + longest) / 60 > minutes:
                print(f"no time left for {path.name}")
                return
            started = time.monotonic()
            write_json(path, measure(config, identity, opened, profile))
            longest = max(longest, time.monotonic() - started)
            print(f"{path.name}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    if arguments.table:
        rows = [row for name in VARIANTS for seed in SEEDS if (row := read_row(row_path(name, seed)))]
        print(table(rows))
    else:
        fill(arguments.minutes)


if __name__ == "__main__":
    main()
