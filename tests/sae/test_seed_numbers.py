"""The numbers that the seeds state, and those that the project read into what they leave open, row by row.

A number of `variants.yaml` that is not in a seed's text, nor in the reading of it that all agreed on, is not here: the
rows' `reading` says what it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.sae import Variant, load_variants

TABLE = load_variants(Path(__file__).parents[2] / "variants.yaml")
COMMON = {
    "sparsifier.kind": "relu",
    "objective.l1": 0.04,
    "optimizer.name": "adam",
    "optimizer.lr": 3e-4,
    "optimizer.warmup": 1000,
    "batches.rows": 1.0,
}
"""Every run, but for what it says itself. A batch of the profile has 2,048 tokens."""
THRESHOLD = {"sparsifier.kind": "jumprelu", "sparsifier.threshold.initial": 0.1}
COHERENCE = {"lags": ((1, 1),)}
SCALES = {"lags": ((1, 4), (5, 16), (17, 127))}
MULTISCALE = {
    **SCALES,
    "parts.gate.bias": 2.0,
    "batches.lengths": (32, 64, 128),
    "objective.pruning.at": (0.5, 0.75),
    "objective.pruning.density": 1e-6,
    "objective.temporal.adaptive.limit": 0.1,
}
CONSERVATIVE = {**MULTISCALE, "weights": (0.01, 0.005, 0.001), "optimizer.clip": 1.0}
WINDOW = {"lags": ((1, 2),)}
REDESIGN = {
    **WINDOW,
    "weights": (0.01,),
    "objective.temporal.delay": 5000,
    "objective.temporal.ramp": 1000,
    "optimizer.warmup": 5000,
    "optimizer.clip": 1.0,
    "initialisation": "kaiming",
    "parts.norm.kind": "batch",
}
CONVOLUTION = {"parts.convolution.dilations": (1, 2, 4, 8), "parts.convolution.kernel": 3, "weights": ()}
SEPARATION = {**CONVOLUTION, "objective.separation.weight": 0.1, "objective.separation.sampled": 256}
WITH_BUFFERS = {
    "weights": (0.01, 0.005, 0.001),
    "optimizer.clip": 2.0,
    "objective.reconstruction_boost.factor": 2.0,
    "objective.temporal.variance_threshold": 0.01,
    "objective.temporal.buffers.sigma": 0.1,
    "objective.temporal.buffers.mixing": 0.25,
    "optimizer.noise.scale": 0.01,
    "optimizer.noise.steps": 2000,
}

STATED: dict[str, dict[str, Any]] = {
    "baseline": {"optimizer.clip": None, "weights": ()},
    # 000
    "tsa-core": {
        **THRESHOLD,
        **COHERENCE,
        "weights": (0.1,),
        "parts.position.dim": 64,
        "parts.position.std": 0.02,
        "parts.attention.heads": 4,
        "parts.attention.layer_norm": False,
        "parts.attention.skip": False,
        "optimizer.clip": None,
    },
    "tsa-stable": {
        **THRESHOLD,
        **COHERENCE,
        "weights": (0.01,),
        "parts.position.dim": 64,
        "parts.position.std": 0.01,
        "parts.attention.heads": 4,
        "parts.attention.layer_norm": True,
        "parts.attention.skip": True,
        "optimizer.clip": 1.0,
    },
    "tsa-simplified": {
        **THRESHOLD,
        **COHERENCE,
        "weights": (0.01,),
        "parts.position.dim": 32,
        "parts.position.std": 0.01,
        "parts.attention": None,
        "optimizer.lr": 1e-4,
        "optimizer.warmup": 2000,
        "optimizer.clip": 1.0,
    },
    "minimal-base": {
        "weights": (),
        "parts.position": None,
        "parts.attention": None,
        "parts.norm.kind": "batch",
        "initialisation": "kaiming",
        "optimizer.lr": 1e-4,
        "optimizer.warmup": 2000,
    },
    "adamw-base": {
        "weights": (),
        "parts.norm.kind": "batch",
        "initialisation": "kaiming",
        "optimizer.name": "adamw",
        "optimizer.weight_decay": 0.01,
        "optimizer.lr": 5e-5,
        "optimizer.warmup": 1600,  # 5,000, cut to a fifth of 8,000
        "optimizer.clip_value": 1.0,
        "batches.rows": 2.0,
    },
    # 001
    "multiscale": {**MULTISCALE, "weights": (0.1, 0.05, 0.01)},
    "multiscale-conservative": CONSERVATIVE,
    "buffer-warmup": {
        **CONSERVATIVE,
        "objective.temporal.delay": 0,
        "objective.temporal.ramp": 1000,
        "objective.temporal.buffers.sigma": 0.1,
        "objective.temporal.buffers.mixing": 0.9,
        "objective.temporal.buffers.mixing_after": 0.1,
    },
    "progressive": {
        **CONSERVATIVE,
        "objective.temporal.delay": 500,
        "objective.temporal.ramp": 500,
        "objective.temporal.buffers.sigma": 0.1,
        "objective.temporal.buffers.mixing": 0.5,
        "objective.temporal.decay.half_life": 0.25,
        "objective.temporal.decay.floor": 0.1,
        "optimizer.clip": 2.0,
    },
    "warmup2000": {
        **SCALES,
        **WITH_BUFFERS,
        "objective.temporal.delay": 2000,
        "objective.temporal.ramp": 1000,
        "objective.reconstruction_boost.hold": 2000,
    },
    # 002
    "window3": {**WINDOW, "weights": (0.1,), "optimizer.clip": None},
    "window3-balanced": {**WINDOW, "weights": (0.01,), "optimizer.clip": 1.0, "optimizer.warmup": 2000},
    "window3-redesign": REDESIGN,
    "window3-accumulate": {
        **REDESIGN,
        "batches.accumulate": 4,
        "stopping.patience": 10,
        "stopping.not_before": 3000,
        "instrumentation": True,
    },
    "window3-lowmem": {
        **REDESIGN,
        "batches.accumulate": 8,
        "batches.recompute": True,
        "layers": "curriculum",
        "stopping.patience": 10,
        "stopping.not_before": 3000,
        "instrumentation": True,
    },
    # 003
    "mtsae": CONVOLUTION,
    "mtsae-separation": SEPARATION,
    "mtsae-debug": {**SEPARATION, "instrumentation": True},
    "mtsae-diagnostics": {**SEPARATION, "instrumentation": True},
    # 004
    "paper": {
        **WITH_BUFFERS,
        "lags": ((1, 3), (4, 15), (16, 127)),
        "objective.temporal.delay": 1000,
        "objective.temporal.ramp": 1000,
        "objective.reconstruction_boost.hold": 1000,
        "objective.reconstruction_boost.back": 1000,
        "parts.norm.kind": "layer",
        "parts.gate.bias": 2.0,
        "optimizer.name": "adamw",
        "optimizer.weight_decay": 0.01,
        "optimizer.warmup": 2000,
    },
}


def number(row: Variant, key: str) -> Any:
    """A number of a row by its place in the table; `lags` and `weights` are those of all temporal scales."""
    if key in ("lags", "weights"):
        scales = row.objective.temporal.scales if row.objective.temporal else ()
        return tuple(scale.lags if key == "lags" else scale.weight for scale in scales)
    found: Any = row
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", STATED)
def test_a_row_has_the_numbers_of_its_run(name: str) -> None:
    stated = {**COMMON, **STATED[name]}
    assert {key: number(TABLE[name], key) for key in stated} == stated


def test_every_row_of_a_seed_is_among_them() -> None:
    rows = {
        name for name, row in TABLE.items() if row.control is None and ("seed" in row.source or "001" in row.source)
    }
    assert rows == STATED.keys() and len(rows) == 21


def test_runs_that_only_look_closer_have_the_same_numbers() -> None:
    """003's runs 3 and 4 are its run 2 with instruments."""
    plain, *looked = (TABLE[f"mtsae-{name}"].numbers for name in ("separation", "debug", "diagnostics"))
    for numbers in looked:
        assert numbers["instrumentation"]
        assert {**numbers, "name": plain["name"], "instrumentation": False} == plain
