"""Training tokens/s beside the dense products of a plain step, on the current profile's store.

    python -m bench.train [--variant topk]... [--rounds 5] [--steps 10]

A plain step of an SAE multiplies five times: encode, decode, and three gradients (codes, both weights). `products` is
the time of these five alone, in the plan's number format. Rounds alternate; medians are reported.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import store
from bench.machine import record
from pipeline.params import read_params
from pipeline.paths import Project
from stages.precision import native_dtype
from stages.sae.normalisation import Normalisation
from stages.sae.table import find_variant, load_variants
from stages.train.config import make_config
from stages.train.plan import check_plan
from stages.train.trainer import Trainer
from store import ActivationStore

ROOT = Path(__file__).parents[1]
WARM_STEPS = 100
"""Steps before the first round: codes are not sparse before training has made them so."""


class Training:
    """A training that is stepped round by round."""

    def __init__(self, variant: str, opened: ActivationStore) -> None:
        profile = read_params(ROOT).profile
        self.config = make_config(find_variant(load_variants(ROOT / "variants.yaml"), variant), profile.train, seed=0)
        self.layer = max(opened.layers)
        plan = check_plan(self.config, opened, self.layer)
        moments = opened.statistics(self.layer)
        self.trainer = Trainer(
            self.config, plan, Normalisation(torch.tensor(moments.mean), moments.scale), opened.context
        )
        self.windows = opened.windows(self.layer, "train", self.config.batch_rows)
        self.done = 0

    def seconds_a_step(self, steps: int) -> float:
        """Do `steps` steps as the loop does them, metrics left out."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.trainer.step(self.done, self.windows.batch(self.done), measured=False)
            self.done += 1
        return (time.perf_counter() - begun) / steps


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
    parser.add_argument("--variant", action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    opened = store.open(Project(ROOT).store(read_params(ROOT).profile))
    for variant in arguments.variant or ["topk"]:
        training = Training(variant, opened)
        n, d_in = training.config.batch_rows * opened.context, opened.layers[training.layer]
        training.seconds_a_step(WARM_STEPS)
        rounds = [
            (training.seconds_a_step(arguments.steps), seconds_of_products(n, d_in, training.config.d_sae))
            for _ in range(arguments.rounds)
        ]
        step, products = (statistics.median(column) for column in zip(*rounds, strict=True))
        record(
            f"train-{variant}",
            {
                "variant": variant,
                "size": {"positions": n, "d_in": d_in, "d_sae": training.config.d_sae, "k": training.config.k},
                "rounds": arguments.rounds,
                "milliseconds_a_step": round(step * 1e3, 1),
                "milliseconds_of_five_dense_products": round(products * 1e3, 1),
                "ratio_median": round(statistics.median(a / b for a, b in rounds), 3),
                "tokens_per_second": round(n / step),
            },
        )


if __name__ == "__main__":
    main()
