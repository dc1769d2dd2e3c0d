"""A batch in parts: memory is that of one, and statistics follow all of them."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import store
from stages.sae import load_variants
from stages.sae.normalisation import Normalisation
from stages.sae.outputs import MOMENTUM, BatchNorm
from stages.train.objective import Objective
from stages.train.plan import check_plan
from stages.train.trainer import Trainer
from tests.train import small


def trainer_of(activations: store.ActivationStore, parts: int) -> Trainer:
    row = small.scaled(load_variants(small.TABLE)["window3-accumulate"])
    config = small.config(replace(row, batches=replace(row.batches, accumulate=parts)))
    statistics = activations.statistics(small.LAYER)
    normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
    return Trainer(config, check_plan(config, activations, small.LAYER), normalisation, activations.context)


@pytest.mark.parametrize("measured", [False, True])
def test_nothing_of_a_part_outlives_it(
    measured: bool, activations: store.ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(activations, 4)
    seen: list[weakref.ref[Tensor]] = []
    plain = Objective.__call__

    def noting(self: Objective, *arguments: Any) -> Any:
        assert not any(ref() is not None for ref in seen), "the codes of an earlier part are still there"
        found = plain(self, *arguments)
        seen.append(weakref.ref(found.codes.dense()))
        return found

    monkeypatch.setattr(Objective, "__call__", noting)
    windows = activations.windows(small.LAYER, "train", trainer.config.batch_rows, 0)
    trainer.step(0, windows.batch(0), measured)
    assert len(seen) == 4


def test_running_statistics_follow_every_part(
    activations: store.ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(activations, 2)
    norm = trainer.sae.norm
    assert isinstance(norm, BatchNorm)
    seen: list[Tensor] = []
    follow = BatchNorm.follow

    def noting(self: BatchNorm) -> None:
        assert self.seen is not None
        seen.append(self.seen[0].clone())
        follow(self)

    windows = activations.windows(small.LAYER, "train", trainer.config.batch_rows, 0).batch(0)
    batch = trainer.batch(0, windows)
    trainer.sae.calibrate(batch.x, batch.segments)
    expected = norm.mean.clone()
    monkeypatch.setattr(BatchNorm, "follow", noting)
    trainer.step(0, windows, measured=False)
    assert len(seen) == 2 and not torch.allclose(seen[0], seen[1])
    for mean in seen:
        expected = expected.lerp(mean, MOMENTUM)
    torch.testing.assert_close(norm.mean, expected)
