"""What storing bfloat16 costs: SAEs trained and evaluated on bfloat16 and on float32 activations of the same passes.

    python -m bench.precision [--variant topk] [--steps 2000] [--tokens 262144]

The first tokens of the current profile's text are harvested twice, in both types. Rounding is measured on the heldout
tokens themselves; then the variant is trained from each store with one seed, and each SAE evaluated.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import store
from bench.machine import record
from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project
from stages.evaluate.run import evaluate
from stages.harvest.harvest import harvest
from stages.sae.table import find_variant, load_variants
from stages.train.config import make_config
from stages.train.loop import train
from store import ActivationStore

ROOT = Path(__file__).parents[1]
BATCH = 64
"""Sequences compared at a time."""


def rounding(rounded: ActivationStore, exact: ActivationStore, layer: int) -> dict[str, float]:
    """Squared error of rounding over the variance (all dimensions), and of the worst dimension; heldout tokens."""
    statistics, rows = exact.statistics(layer), exact.rows("heldout")
    squares, n = 0.0, 0
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        kept = exact.document(batch) >= 0
        difference = rounded.read(layer, batch)[kept].double() - exact.read(layer, batch)[kept].double()
        squares = squares + difference.square().sum(0).numpy()
        n += int(kept.sum())
    by_dimension = squares / n / statistics.variance
    return {
        "fraction_of_variance": float((squares / n).sum() / statistics.variance.sum()),
        "worst_dimension": float(by_dimension.max()),
        "median_dimension": float(sorted(by_dimension)[len(by_dimension) // 2]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="topk")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=262_144)
    arguments = parser.parse_args()
    profile, project = read_params(ROOT).profile, Project(ROOT)
    corpus = replace(profile.corpus, tokens=arguments.tokens)
    folders = {dtype: project.store(profile, f"-precision-{dtype}") for dtype in (profile.harvest.dtype, "float32")}
    config = make_config(
        find_variant(load_variants(ROOT / "variants.yaml"), arguments.variant),
        profile.train,
        seed=0,
        steps=arguments.steps,
    )
    results = {}
    with console.progress() as progress:
        for dtype, folder in folders.items():
            harvest(folder, replace(profile.harvest, dtype=dtype), profile.model, corpus, progress=progress)
            opened = store.open(folder)
            run = project.root / "runs" / f"precision-{dtype}"
            train(config, opened, max(opened.layers), run, progress)
            out = project.root / "results" / f"precision-{dtype}"
            (results[dtype],) = evaluate([(run, out)], folder, profile.model, profile.evaluate, progress=progress)
    opened = [store.open(folder) for folder in folders.values()]
    record(
        "precision",
        {
            "model": profile.model.name,
            "layer": max(opened[0].layers),
            "tokens": arguments.tokens,
            "training": asdict(config.variant) | {"steps": arguments.steps},
            "rounding": rounding(opened[0], opened[1], max(opened[0].layers)),
            "summaries": {dtype: result.summary for dtype, result in results.items()},
        },
    )


if __name__ == "__main__":
    main()
