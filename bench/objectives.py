"""What the temporal terms and parts of each row cost: its step over that of its control without them.

    python -m bench.objectives [--variant V]... [--rounds 5] [--steps 4]

`literal` is `warmup2000` with its pair losses as their formula reads: a difference of code tensors for every lag,
differentiated by autograd; `pairs` is the same without the buffers, as we compute it. Rounds alternate; ratios are
taken round by round, after all schedules of the row have ended.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import store
from bench.machine import record
from bench.rows import STEPS
from bench.train import ROOT, Training
from pipeline.params import read_params
from pipeline.paths import Project
from stages.sae.objective_row import TemporalRow
from stages.sae.table import load_variants
from stages.train.schedule import end_of_schedules
from stages.train.temporal import Consistency, TemporalTerms, latent_weights
from store import ActivationStore

WARM_STEPS = 25
"""Steps before the first round, at the step where all schedules have ended."""
LITERAL = "warmup2000"
"""The row whose pair losses are also computed as they read."""


class LiteralTerms(TemporalTerms):
    """The pair terms lag by lag; the buffers are left out."""

    def __call__(
        self,
        codes: Float[Tensor, "batch seq d_sae"],
        segments: Int[Tensor, "batch seq"],
        step: int,
        reconstruction: Float[Tensor, ""],
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
        return Consistency(terms, [], latents, {})


def without_buffers(row: TemporalRow) -> TemporalRow:
    """The same row with nothing but pairs."""
    return TemporalRow(**{**vars(row), "buffers": None})


def trainings_of(variant: str, opened: ActivationStore) -> dict[str, Training]:
    """The row and what it is compared with, ready to be timed."""
    found = {"per_token": Training(f"{variant}+no-temporal", opened, steps=STEPS)}
    found["row"] = Training(variant, opened, steps=STEPS)
    if variant == LITERAL:
        for kind, terms in {"pairs": TemporalTerms, "literal": LiteralTerms}.items():
            found[kind] = Training(variant, opened, steps=STEPS)
            objective = found[kind].trainer.objective
            assert objective.temporal is not None
            objective.temporal = terms(without_buffers(objective.temporal.row), 0, STEPS)
    ends = end_of_schedules(found["row"].config.variant, STEPS)
    for training in found.values():
        training.seconds_a_step(1)
        training.done = ends
        training.seconds_a_step(WARM_STEPS)
    return found


def cost(variant: str, opened: ActivationStore, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds a step of a row and of its control, and their ratio with its range."""
    trainings = trainings_of(variant, opened)
    seconds = [{kind: t.seconds_a_step(steps) for kind, t in trainings.items()} for _ in range(rounds)]
    figures: dict[str, Any] = {}
    for kind in trainings:
        figures[f"milliseconds_{kind}"] = round(1e3 * statistics.median(each[kind] for each in seconds), 1)
        if kind != "per_token":
            ratios = [each[kind] / each["per_token"] for each in seconds]
            figures[f"ratio_{kind}"] = round(statistics.median(ratios), 3)
            figures[f"ratio_{kind}_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return figures


def temporal_rows() -> Iterable[str]:
    """Rows that use the order of tokens on one layer."""
    table = load_variants(ROOT / "variants.yaml")
    return [name for name, row in table.items() if row.temporal and not row.control and row.layers == "one"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    opened = store.open(Project(ROOT).store(read_params(ROOT).profile))
    for variant in arguments.variant or temporal_rows():
        sizes = {"variant": variant, "rounds": arguments.rounds, "steps": arguments.steps}
        record(f"costs/{variant}", {**sizes, **cost(variant, opened, arguments.rounds, arguments.steps)})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
