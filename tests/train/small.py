"""Small stores and trainings for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import store
from stages.sae import Normalisation, Variant, find_variant, load_variants
from stages.sae.objective_row import BoostRow
from stages.sae.training_row import NoiseRow
from stages.train import TrainConfig
from store.manifest import StoreSpec
from store.statistics import Statistics

D, CONTEXT, LAYER = 16, 12, 3
TABLE = Path(__file__).parents[2] / "variants.yaml"


def sparse_activations(rng: np.random.Generator, rows: int, context: int = CONTEXT, d: int = D) -> np.ndarray:
    """Activations with something to find: each a few of 2d directions, plus noise, far from the origin."""
    directions = rng.standard_normal((2 * d, d))
    strength = rng.gamma(2.0, 1.0, (rows, context, 2 * d)) * (rng.random((rows, context, 2 * d)) < 3 / (2 * d))
    x = strength @ directions + 0.1 * rng.standard_normal((rows, context, d)) + 20.0
    return x.astype(np.float32)


def make_store(
    folder: Path, rows: int = 40, bos: float = 1000.0, activations: np.ndarray | None = None, d: int = D
) -> store.ActivationStore:
    """A float32 store: BOS at position 0 (of value `bos` everywhere), a padded tail in every fourth row."""
    rng = np.random.default_rng(0)
    x = sparse_activations(rng, rows, d=d) if activations is None else activations.copy()
    spec = StoreSpec({"model": {"name": "synthetic"}}, CONTEXT, "float32", {LAYER: d})
    tokens = rng.integers(3, 100, (rows, CONTEXT)).astype(np.int32)
    document = np.zeros((rows, CONTEXT), np.int32)
    with store.StoreWriter.open(folder, spec, {}) as writer:
        with writer.sequences() as out:
            for row in range(rows):
                split = "heldout" if row % 5 == 4 else "train"
                document[row] = out.add_document(f"doc{row}", "test", "", split, CONTEXT - 1)
            document[:, 0] = -1
            document[::4, -3:] = -1
            out.add_rows(tokens, document)
        x[document < 0] = bos
        for shard in writer.missing_shards():
            writer.write_shard(shard, {LAYER: x[list(writer.shard_rows(shard))]})
        writer.finish({})
    return store.open(folder)


def variant(name: str = "topk", **numbers: Any) -> Variant:
    """A row of the table with short schedules; `numbers` go where the row has that key."""
    row = load_variants(TABLE)[name]
    numbers = {"warmup": 3, "l1_warmup": 3, "dead_after_tokens": 2000, **numbers}
    parts = {part: getattr(row, part) for part in ("sparsifier", "objective", "optimizer")}
    known = {
        part: replace(value, **{key: number for key, number in numbers.items() if hasattr(value, key)})
        for part, value in parts.items()
    }
    return replace(row, **known)


def config(row: Variant | None = None, **numbers: Any) -> TrainConfig:
    """A small training."""
    sizes = {
        "seed": 0,
        "steps": 30,
        "batch_rows": 4,
        "d_sae": 32,
        "k": 4,
        "checkpoint_every": 7,
        "log_every": 3,
    }
    return TrainConfig(row or variant(), **{**sizes, **numbers})


def normalisation(statistics: Statistics) -> Normalisation:
    return Normalisation(torch.tensor(statistics.mean), statistics.scale)


def single_thread() -> None:
    """Small tensors gain nothing from threads, and other tests use the cores."""
    torch.set_num_threads(1)


def temporal(name: str = "warmup2000", delay: int = 3, ramp: int = 4, weight: float = 1.0, **numbers: Any) -> Variant:
    """A temporal row with lags that fit these sequences, short schedules, and its weights times `weight`."""
    base = load_variants(TABLE)[name.partition("+")[0]].objective.temporal
    assert base is not None
    lags = ((1, 2), (3, 5), (6, 10))
    scales = tuple(
        replace(scale, lags=lag, weight=weight * scale.weight) for scale, lag in zip(base.scales, lags, strict=True)
    )
    row = variant(
        name.partition("+")[0],
        temporal=replace(base, scales=scales, delay=delay, ramp=ramp),
        reconstruction_boost=BoostRow(2.0, delay, ramp),
        noise=NoiseRow(0.01, delay),
        **numbers,
    )
    return find_variant({row.name: row}, name)


def scaled(row: Variant, steps: int = 40) -> Variant:
    """A row of the table with schedules, lags and windows that fit `steps` steps on these sequences."""

    def early(number: int, most: int) -> int:
        return min(number, most)

    objective, optimizer = row.objective, row.optimizer
    if objective.temporal is not None:
        lags = [(1, 2), (3, 5), (6, 10)][: len(objective.temporal.scales)]
        scales = tuple(replace(scale, lags=lag) for scale, lag in zip(objective.temporal.scales, lags, strict=True))
        delay, ramp = early(objective.temporal.delay, steps // 8), early(objective.temporal.ramp, steps // 8)
        temporal = replace(objective.temporal, scales=scales, delay=delay, ramp=ramp)
        objective = replace(objective, temporal=temporal)
    if objective.reconstruction_boost is not None:
        objective = replace(objective, reconstruction_boost=BoostRow(2.0, steps // 8, steps // 8))
    objective = replace(objective, l1_warmup=early(objective.l1_warmup, steps // 8), dead_after_tokens=300)
    noise = None if optimizer.noise is None else replace(optimizer.noise, steps=steps // 8)
    optimizer = replace(optimizer, warmup=early(optimizer.warmup, steps // 8), noise=noise, lr=3e-3)
    stopping = None if row.stopping is None else replace(row.stopping, every=5, patience=2, not_before=steps // 4)
    batches = row.batches
    batches = replace(batches, lengths=(8, 10, 12) if batches.lengths else (), accumulate=early(batches.accumulate, 2))
    return replace(row, objective=objective, optimizer=optimizer, stopping=stopping, batches=batches)


def killed_config(kind: str) -> TrainConfig:
    """The training of the tests that kill it: dead latents come and go, so that every counter matters."""
    numbers = {"lr": 3e-3, "dead_after_tokens": 300}
    row = temporal(delay=10, ramp=25, **numbers) if kind == "warmup2000" else variant(kind, **numbers)
    return config(row, steps=60)
