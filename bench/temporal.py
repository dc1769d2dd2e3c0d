"""What the temporal terms of a variant cost: its step over that of its control without them, on the current store.

    python -m bench.temporal [--variant warmup2000] [--rounds 5] [--steps 5]

`literal` is the same objective with the pair losses as their formula reads: a difference of code tensors for every lag,
differentiated by autograd. Rounds alternate; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import store
from bench.machine import record
from bench.train import ROOT, WARM_STEPS, Training
from pipeline.params import read_params
from pipeline.paths import Project
from stages.sae.objective_row import TemporalRow
from stages.train.temporal import Consistency, TemporalTerms, latent_weights


class LiteralTerms(TemporalTerms):
    """The pair terms lag by lag; the buffers are left out."""

    def __call__(
        self, codes: Float[Tensor, "batch seq d_sae"], segments: Int[Tensor, "batch seq"], step: int
    ) -> Consistency:
        latents = latent_weights(codes.detach(), segments >= 0, self.row)
        terms = {}
        for scale in self.scales:
            total, count = codes.new_zeros(()), 0
            for lag in range(scale.lags[0], min(scale.lags[1] + 1, segments.shape[1])):
                pairs = (segments[:, lag:] == segments[:, :-lag]) & (segments[:, lag:] >= 0)
                squares = (codes[:, lag:] - codes[:, :-lag]).square() @ latents.weights
                total, count = total + (squares * pairs).sum(), count + int(pairs.sum())
            terms[f"temporal_{scale.name}"] = scale.weight * total / count
        return Consistency(terms, [], latents)


def without_buffers(row: TemporalRow) -> TemporalRow:
    """The same row with nothing but pairs."""
    return TemporalRow(**{**vars(row), "buffers": None})


def milliseconds(training: Training, step: int, steps: int) -> float:
    """Of one step, from `step` on: where the temporal terms have their full weight."""
    training.done = step
    return training.seconds_a_step(steps) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="warmup2000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    opened = store.open(Project(ROOT).store(read_params(ROOT).profile))
    names = {"per_token": f"{arguments.variant}+no-temporal"}
    names |= dict.fromkeys(("pairs_and_buffers", "pairs", "literal"), arguments.variant)
    trainings = {kind: Training(name, opened) for kind, name in names.items()}
    for kind in ("pairs", "literal"):
        objective = trainings[kind].trainer.objective
        assert objective.temporal is not None
        terms = LiteralTerms if kind == "literal" else TemporalTerms
        objective.temporal = terms(without_buffers(objective.temporal.row), seed=0)
    for training in trainings.values():
        training.seconds_a_step(WARM_STEPS // 4)
    temporal = trainings["literal"].config.variant.objective.temporal
    assert temporal is not None
    first = temporal.delay + temporal.ramp
    rounds = [
        {
            kind: milliseconds(training, first + i * arguments.steps, arguments.steps)
            for kind, training in trainings.items()
        }
        for i in range(arguments.rounds)
    ]
    figures: dict[str, Any] = {"variant": arguments.variant, "rounds": arguments.rounds, "steps": arguments.steps}
    for kind in trainings:
        figures[f"milliseconds_{kind}"] = round(statistics.median(r[kind] for r in rounds), 1)
        ratios = [r[kind] / r["per_token"] for r in rounds]
        figures[f"ratio_{kind}"] = round(statistics.median(ratios), 3)
        figures[f"ratio_{kind}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    record(f"temporal-{arguments.variant}", figures)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
