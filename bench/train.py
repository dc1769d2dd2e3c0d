"""Training tokens/s beside SAELens's trainer and beside the dense products of a plain step, rounds alternating.

    python -m bench.train [--d-sae 2560] [--rounds 7] [--steps 5]

Both train TopK on the current profile's store, on the same number of positions a step. SAELens's batches are normalised
and in memory before the clock runs, and it trains in float32, and under autocast where the
machine has bf16 units.
`products` are the five dense products of a step (encode, decode, gradients of codes and of both weights), in the
plan's number format. Medians are reported, ratios taken round by round.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

import store
from bench.machine import record
from pipeline.params import read_params
from pipeline.paths import Project
from stages.memory import keep_freed_memory
from stages.precision import native_dtype
from stages.sae.normalisation import Normalisation
from stages.sae.table import find_variant, load_variants
from stages.train.config import make_config
from stages.train.plan import check_plan
from stages.train.trainer import Trainer
from store import ActivationStore

ROOT = Path(__file__).parents[1]
WARM_STEPS = 100
"""Steps before the first round: ours depend on how many latents are active, SAELens's are dense."""
SETTINGS = {"float32": {}} | ({"autocast": {"autocast": True}} if native_dtype() == torch.bfloat16 else {})
"""What SAELens's trainer offers. Not its sparse codes: on CPU they cannot be differentiated with its normalised
decoder, and without that a step takes seconds; nor autocast where bf16 is emulated: a step took 10 s."""
BATCHES_IN_MEMORY = 32


class Training:
    """A training that is stepped round by round."""

    def __init__(
        self, variant: str, opened: ActivationStore, d_sae: int | None = None, steps: int | None = None
    ) -> None:
        """In the profile's sizes, or others."""
        keep_freed_memory()
        sizes = read_params(ROOT).profile.train
        row = find_variant(load_variants(ROOT / "variants.yaml"), variant)
        self.config = make_config(row, replace(sizes, d_sae=d_sae or sizes.d_sae), seed=0, steps=steps)
        self.layer = max(opened.layers)
        plan = check_plan(self.config, opened, self.layer)
        self.trainer = Trainer(self.config, plan, normalisation_of(opened), opened.context)
        self.windows = opened.windows(self.layer, "train", self.config.batch_rows)
        self.done = 0

    def seconds_a_step(self, steps: int) -> float:
        """Do `steps` steps as the loop does them, metrics left out."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.trainer.step(self.done, self.windows.batch(self.done), measured=False)
            self.done += 1
        return (time.perf_counter() - begun) / steps


class SAELensTraining:
    """SAELens's trainer on the same activations, in our units."""

    def __init__(self, ours: Training, data: Sequence[Tensor], autocast: bool = False) -> None:
        """`data` are the batches, again and again."""
        config, n = ours.config, len(data[0])
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=len(ours.trainer.normalisation.mean),
                d_sae=config.d_sae,
                k=config.k,
            )
        )
        lr = config.variant.optimizer.lr
        settings = SAETrainerConfig(n * config.steps, n, lr=lr, lr_end=lr, autocast=autocast)
        self.batches = itertools.cycle(data)
        self.trainer = SAETrainer(settings, sae, self.batches)

    def seconds_a_step(self, steps: int) -> float:
        """Do `steps` steps as its `fit` does them, without progress bar and log."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.trainer.step(next(self.batches))
            self.trainer.n_training_steps += 1
        return (time.perf_counter() - begun) / steps


def normalisation_of(opened: ActivationStore) -> Normalisation:
    """That of the store's last layer."""
    moments = opened.statistics(max(opened.layers))
    return Normalisation(torch.tensor(moments.mean), moments.scale)


def batches_in_memory(ours: Training) -> list[Float[Tensor, "positions d_in"]]:
    """Batches of the training, normalised, without the structure of windows."""
    found = []
    for index in range(BATCHES_IN_MEMORY):
        batch = ours.trainer.batch(0, ours.windows.batch(index))
        found.append(batch.x.flatten(0, 1).clone())
    return found


def seconds_of_products(n: int, d_in: int, d_sae: int) -> float:
    """The five dense products of a step."""
    dtype = native_dtype()
    x, codes = torch.randn(n, d_in, dtype=dtype), torch.randn(n, d_sae, dtype=dtype)
    encoder, decoder = torch.randn(d_in, d_sae, dtype=dtype), torch.randn(d_sae, d_in, dtype=dtype)
    pairs = [(x, encoder), (codes, decoder), (x, decoder.T), (x.T, codes), (codes.T, x)]
    for a, b in pairs:
        a @ b
    begun = time.perf_counter()
    for a, b in pairs:
        a @ b
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-sae", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    opened = store.open(Project(ROOT).store(read_params(ROOT).profile))
    ours = Training("topk", opened, arguments.d_sae)
    n, d_in = ours.config.batch_rows * opened.context, opened.layers[ours.layer]
    data = batches_in_memory(ours)
    theirs = {name: SAELensTraining(ours, data, **settings) for name, settings in SETTINGS.items()}
    contenders = {"ours": ours, **{f"saelens_{name}": training for name, training in theirs.items()}}
    for training in contenders.values():
        training.seconds_a_step(WARM_STEPS if training is ours else 1)
    rounds = []
    for _ in range(arguments.rounds):
        seconds = {name: training.seconds_a_step(arguments.steps) for name, training in contenders.items()}
        rounds.append({**seconds, "five_dense_products": seconds_of_products(n, d_in, arguments.d_sae)})
    median = {name: statistics.median(seconds[name] for seconds in rounds) for name in rounds[0]}
    best = min(median, key=lambda name: median[name] if name.startswith("saelens") else float("inf"))
    against = {"saelens": best, "products": "five_dense_products"}
    record(
        "train-topk",
        {
            "size": {"positions": n, "d_in": d_in, "d_sae": arguments.d_sae, "k": ours.config.k},
            "rounds": arguments.rounds,
            "milliseconds_a_step": {name: round(seconds * 1e3, 1) for name, seconds in median.items()},
            "tokens_per_second": {name: round(n / median[name]) for name in contenders},
            "saelens_best": best,
            **{
                f"times_as_fast_as_{name}": round(statistics.median(r[other] / r["ours"] for r in rounds), 2)
                for name, other in against.items()
            },
        },
    )


if __name__ == "__main__":
    main()
