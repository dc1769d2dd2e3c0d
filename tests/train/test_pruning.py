"""Pruning: which latents go and when, and that they stay gone in a run that was resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import store
from stages.sae import SAE, Variant, load
from stages.sae.codes import DenseCodes
from stages.sae.objective_row import PruningRow
from stages.sae.sparsifier import ReLU
from stages.train import TrainConfig, train
from stages.train.plan import make_plan
from stages.train.pruning import Pruning
from stages.train.trainer import Trainer
from tests.train import small
from tests.train.interrupt import content, forget, interrupted

STEPS = 40


def pruned(at: tuple[float, ...], density: float, lr: float) -> Variant:
    row = small.variant("baseline", lr=lr)
    return replace(row, objective=replace(row.objective, pruning=PruningRow(at, density)))


def config(row: Variant, steps: int = STEPS) -> TrainConfig:
    return small.config(row, steps=steps, checkpoint_every=9, log_every=8)


def silenced(folder: Path) -> Tensor:
    """Latents whose encoder a saved SAE lacks."""
    return (load(folder / "sae").W_enc == 0).all(0)


@pytest.mark.parametrize(("at", "ends"), [((0.5,), {3}), ((0.5, 0.75), {3, 5}), ((0.001, 0.5), {0, 3})])
def test_latents_go_that_fired_at_a_smaller_share_of_the_tokens_since_the_last_time(
    at: tuple[float, ...], ends: set[int], activations: store.ActivationStore
) -> None:
    """Beside a count of the kept tokens at which each fires: of 8 steps the 4th and the 6th end with it."""
    density, normalisation = 0.5, small.normalisation(activations.statistics(small.LAYER))
    trainer = Trainer(config(pruned(at, density, 3e-2), 8), make_plan(8, 48), normalisation, small.CONTEXT)
    windows = activations.windows(small.LAYER, "train", 4, 0)
    fired, tokens, gone = torch.zeros(32), 0, torch.zeros(32, dtype=torch.bool)
    for step in range(8):
        batch = trainer.batch(step, windows.batch(step))
        fired += (trainer.sae.encode(batch.x, batch.segments)[batch.keep] > 0).sum(0)
        tokens += int((batch.segments >= 0).sum())
        trainer.step(step, windows.batch(step), measured=False)
        if step in ends:
            rare = fired < density * tokens
            assert (rare & ~gone).any() and not rare.all(), "some go and some stay"
            fired, tokens, gone = torch.zeros(32), 0, gone | rare
        assert torch.equal(trainer.sae.pruned, gone)


def test_a_latent_that_fired_at_just_the_density_stays() -> None:
    sae = SAE(2, 3, ReLU())
    pruning = Pruning(PruningRow((1.0,), 0.5), sae, 1)
    codes = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    pruning.count(DenseCodes(codes), torch.tensor([[True, True, False]]), 2)
    pruning.after(0)
    assert sae.pruned.tolist() == [False, False, True]


def test_a_run_resumed_after_pruning_ends_with_the_same_bits(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = config(pruned((0.5,), 0.3, 3e-3))
    train(row, activations, small.LAYER, tmp_path / "whole")
    checkpoint = interrupted(row, activations, tmp_path / "resumed", 30)
    assert checkpoint.step == 27 and 0 < int(checkpoint.tensors["pruning.pruned"].sum()) < 32
    train(row, activations, small.LAYER, tmp_path / "resumed")
    assert 0 < int(silenced(tmp_path / "whole").sum()) < 32
    assert content(tmp_path / "resumed") == content(tmp_path / "whole")


@pytest.mark.parametrize(("lost", "at"), [("pruned", 27), ("firings", 18), ("tokens", 18)])
def test_a_run_that_forgets_what_it_pruned_or_counted_ends_otherwise(
    lost: str, at: int, activations: store.ActivationStore, tmp_path: Path
) -> None:
    """The counterpart of the test above: it can fail."""
    row = config(pruned((0.5,), 0.3, 3e-3))
    train(row, activations, small.LAYER, tmp_path / "whole")
    before = interrupted(row, activations, tmp_path / "resumed", 10)
    assert interrupted(row, activations, tmp_path / "resumed", at - before.step + 1).step == at
    forget(tmp_path / "resumed", lambda name: name == f"pruning.{lost}", before)
    train(row, activations, small.LAYER, tmp_path / "resumed")
    weights = "sae/sae_weights.safetensors"
    assert content(tmp_path / "resumed")[weights] != content(tmp_path / "whole")[weights]
