"""What a training would cost, before it is begun."""

from __future__ import annotations

import time

import torch

from stages.sae.normalisation import Normalisation
from stages.train.config import TrainConfig
from stages.train.plan import check_plan
from stages.train.trainer import Trainer, following
from store import ActivationStore

WARM_STEPS, TIMED_STEPS = 2, 5


def estimate(config: TrainConfig, store: ActivationStore, layer: int) -> tuple[dict[str, object], float]:
    """The facts of the plan, and the seconds that its steps would take, from a few that are thrown away.

    Raises:
        Problem: as `train` would, if the training cannot work.
    """
    plan = check_plan(config, store, layer)
    statistics = store.statistics(layer)
    windows = store.windows(layer, "train", config.batch_rows, config.seed)
    with following(plan):
        normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
        trainer = Trainer(config, plan, normalisation, store.context)
        for step in range(WARM_STEPS):
            trainer.step(step, windows.batch(step), measured=False)
        begun = _now(trainer.device)
        for step in range(WARM_STEPS, WARM_STEPS + TIMED_STEPS):
            trainer.step(step, windows.batch(step), measured=False)
        seconds = (_now(trainer.device) - begun) / TIMED_STEPS * config.steps
    return {name: fact for name, fact in plan.facts().items() if fact is not None}, seconds


def _now(device: torch.device) -> float:
    """The time at which a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
