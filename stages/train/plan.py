"""What a training will do, decided and checked before its first step, and what decides its content."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from stages.precision import cpu_capability, native_dtype
from stages.train.config import TrainConfig
from stages.train.schedule import SHARES, ends_of_schedules
from store import ActivationStore
from store.pairs import pairs_by_lag
from store.problem import Problem

SCHEDULED_SHARE = 0.75
"""Every schedule has to be over after this share of the steps, so that the objective itself is trained."""
LARGEST_SEED = 2**63 - 1
"""torch takes no larger one."""


@dataclass(frozen=True)
class TrainPlan:
    """How a training is executed. Decided once, kept with the run and followed by every resume."""

    steps: int
    """Optimiser steps."""
    tokens_per_step: int
    """Positions in a batch, BOS and padding included."""
    device: str
    """`cpu` or `cuda`."""
    products: str
    """dtype of the dense matrix products; parameters, optimiser and losses are float32."""
    threads: int
    """Threads of a CPU operation, on which the order of its sums depends."""
    cpu: str
    """Kind of machine as far as arithmetic goes."""
    torch: str
    """Version of torch."""
    python: str
    """Version of Python, without its patch level."""
    gpu: str | None = None
    """Name of the GPU, where `device` is one."""

    def facts(self) -> dict[str, object]:
        """The plan for a person to read."""
        return {**asdict(self), "positions": self.steps * self.tokens_per_step}

    def check_machine(self, folder: Path) -> None:
        """Refuse to go on where this machine would compute other bits than those that began the run."""
        here = make_plan(self.steps, self.tokens_per_step)
        same = ("device", "gpu", "products", "cpu", "torch", "python")
        differing = [key for key in same if getattr(self, key) != getattr(here, key)]
        if differing:
            raise Problem(
                "This machine cannot follow the plan with which the training began.",
                where=folder,
                expected=", ".join(f"{key} {getattr(self, key)}" for key in differing),
                found=", ".join(f"{key} {getattr(here, key)}" for key in differing),
                do="go on where it began, or delete the folder to train anew here",
            )


def make_plan(steps: int, tokens_per_step: int) -> TrainPlan:
    """The plan that suits this machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return TrainPlan(
        steps=steps,
        tokens_per_step=tokens_per_step,
        device="cpu" if gpu is None else "cuda",
        gpu=gpu,
        products=str(native_dtype()).removeprefix("torch."),
        threads=torch.get_num_threads(),
        cpu=cpu_capability(),
        torch=torch.__version__,
        python=".".join(platform.python_version_tuple()[:2]),
    )


def check_plan(config: TrainConfig, store: ActivationStore, layer: int) -> TrainPlan:
    """The plan of a training on this machine. Raises a `Problem` for one that cannot work, before any work."""
    name = config.variant.name
    sizes = {"steps": config.steps, "batch_rows": config.batch_rows, "d_sae": config.d_sae, "k": config.k}
    sizes |= {"log_every": config.log_every, "checkpoint_every": config.checkpoint_every}
    for size, value in {**sizes, "guard_every": config.guard_every}.items():
        if value < 1:
            raise Problem(f"{size} is too small.", expected="at least 1", found=value, usage=True)
    if not 0 <= config.seed <= LARGEST_SEED:
        raise Problem("The seed is out of range.", expected=f"0 to {LARGEST_SEED}", found=config.seed, usage=True)
    _check_schedules(config)
    if "topk" in config.variant.sparsifier.kind and config.k > config.d_sae:
        expected = f"at most d_sae = {config.d_sae}"
        raise Problem(f"{name}: k is above d_sae.", expected=expected, found=config.k, usage=True)
    if layer not in store.layers:
        raise Problem(
            f"The store has no layer {layer}.",
            where=store.path,
            expected=f"one of {', '.join(map(str, sorted(store.layers)))}",
            found=layer,
            usage=True,
        )
    rows = len(store.rows("train"))
    if rows < config.batch_rows:
        raise Problem(
            "The train split is smaller than a batch.",
            where=store.path,
            expected=f"at least {config.batch_rows} sequences",
            found=rows,
            do="harvest more tokens, or train with smaller batches",
        )
    _check_statistics(store, layer)
    _check_pairs(config, store)
    _check_parts(config, store, layer)
    return make_plan(config.steps, config.batch_rows * store.context)


def _check_schedules(config: TrainConfig) -> None:
    """Refuse a number of steps that leaves a schedule unfinished or no time after it."""
    for key, end in ends_of_schedules(config.variant, config.steps).items():
        longest = math.ceil(SCHEDULED_SHARE * config.steps)
        if end > longest and key in SHARES:
            raise Problem(
                f"{config.variant.name}: {key} takes more than {SCHEDULED_SHARE:.0%} of the steps.",
                expected=f"its end after at most {longest} of {config.steps} steps",
                found=f"after {end}",
                do="let it end earlier in its row: it takes a share of the steps, whatever their number",
                usage=True,
            )
        if end > longest:
            never = config.steps <= end
            fault = "would never end" if never else f"would take more than {SCHEDULED_SHARE:.0%} of the steps"
            needed = math.floor((end - 1) / SCHEDULED_SHARE) + 1
            raise Problem(
                f"{config.variant.name}: {key} of {end} steps {fault}.",
                expected=f"at least {needed} steps",
                found=f"{config.steps} steps",
                do=f"train with --steps {needed} or more",
                usage=True,
            )


def _check_pairs(config: TrainConfig, store: ActivationStore) -> None:
    """Refuse temporal terms at lags at which the store's documents have no pairs."""
    temporal = config.variant.objective.temporal
    if temporal is None:
        return
    counts = pairs_by_lag(store.document(store.rows("train")))
    shortest = min(config.variant.batches.lengths, default=store.context)
    for scale in temporal.scales:
        first, last = scale.lags
        if scale.weight and first >= shortest:
            raise Problem(
                f"{config.variant.name}: the temporal term {scale.name!r} has weight but would see no pairs in the "
                f"windows of {shortest} tokens.",
                expected=f"windows of more than {first} tokens, the smallest lag",
                found=f"batches.lengths {', '.join(map(str, config.variant.batches.lengths))}",
                do="lengthen the windows in its row, or give the scale the weight 0",
                usage=True,
            )
        if scale.weight and not counts[first : last + 1].any():
            raise Problem(
                f"{config.variant.name}: the temporal term {scale.name!r} has weight but would see no pairs.",
                where=store.path,
                expected=f"documents with two tokens {first} to {last} apart in one sequence",
                found=f"none {np.flatnonzero(counts)[-1] + 1} apart or more",
                do="harvest longer documents or a longer context, or give the scale the weight 0",
            )


def _check_parts(config: TrainConfig, store: ActivationStore, layer: int) -> None:
    """Refuse parts that do not go together, or whose numbers do not divide the store's or the profile's."""
    row, parts = config.variant, config.variant.parts
    d_in = store.layers[layer]
    faults = {
        "objective.l0 without a learned threshold": row.objective.l0 and row.sparsifier.kind != "jumprelu",
        f"attention heads that do not divide d_in = {d_in}": parts.attention and d_in % parts.attention.heads,
        f"heads times bottleneck of the prediction that do not divide d_sae = {config.d_sae}": parts.prediction
        and config.d_sae % (parts.prediction.heads * parts.prediction.bottleneck),
        f"more parts of a batch than its {config.batch_rows} sequences": row.batches.accumulate > config.batch_rows,
        "stopping without held-out sequences": row.stopping and len(store.rows("heldout")) == 0,
    }
    for fault, found in faults.items():
        if found:
            raise Problem(f"{row.name} cannot be trained: {fault}.", where=store.path, do="change its row", usage=True)


def _check_statistics(store: ActivationStore, layer: int) -> None:
    """Refuse activations that cannot be normalised: none, all equal, or not finite."""
    statistics = store.statistics(layer)
    mean = torch.tensor(statistics.mean)
    usable = statistics.count > 0 and math.isfinite(statistics.scale) and bool(mean.isfinite().all())
    if not usable or statistics.scale <= 0:
        raise Problem(
            "The store's statistics are degenerate: its activations cannot be normalised.",
            where=f"{store.path}, layer {layer}",
            expected="kept tokens, a finite mean and a scale above 0",
            found=f"{statistics.count} kept tokens, scale {statistics.scale}",
            do="harvest again",
        )
