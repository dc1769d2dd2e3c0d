"""Activation checkpointing: codes are made again in the backward pass, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import store
from stages.sae import SAE, load_variants
from stages.train.plan import make_plan
from stages.train.trainer import Trainer
from tests.train import small

TABLE = load_variants(small.TABLE)
NAMES = ["baseline", "topk", "batchtopk", "jumprelu", "window3-lowmem", "tsa-stable", "paper", "persistent", "tfa"]
LATE = 39
"""A step at which all terms have full weight."""


def one_step(
    name: str, recompute: bool, accumulate: int, activations: store.ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, dict[str, list[Tensor]], dict[str, Tensor]]:
    """How often a step encodes, the gradients that each of its backward passes leaves, and what it makes of the SAE."""
    row = small.scaled(TABLE[name], 40)
    row = replace(row, batches=replace(row.batches, recompute=recompute, accumulate=accumulate))
    normalisation = small.normalisation(activations.statistics(small.LAYER))
    trainer = Trainer(small.config(row, steps=40), make_plan(40, 48), normalisation, small.CONTEXT)
    windows = activations.windows(small.LAYER, "train", 4, 0).batch(0)
    first = trainer.batch(LATE, windows)
    trainer.sae.calibrate(first.x, first.segments)
    encodings, encoding = 0, SAE.encoding

    def counted(sae: SAE, *arguments: Any, **named: Any) -> Any:
        nonlocal encodings
        encodings += 1
        return encoding(sae, *arguments, **named)

    monkeypatch.setattr(SAE, "encoding", counted)
    gradients: dict[str, list[Tensor]] = {}
    for key, parameter in trainer.sae.named_parameters():
        seen = gradients[key] = []
        parameter.register_post_accumulate_grad_hook(lambda each, seen=seen: seen.append(each.grad.clone()))
    trainer.step(LATE, windows, measured=False)
    monkeypatch.undo()
    return encodings, gradients, trainer.state()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_recomputing_encodes_twice_and_gives_the_same_gradients(
    name: str, accumulate: int, activations: store.ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, gradients, state = one_step(name, False, accumulate, activations, monkeypatch)
    again, same_gradients, same_state = one_step(name, True, accumulate, activations, monkeypatch)
    assert (plain, again) == (accumulate, 2 * accumulate)
    assert gradients["W_enc"][-1].any()
    for key, each in gradients.items():
        assert len(each) == len(same_gradients[key]) <= accumulate, key
        assert all(map(torch.equal, each, same_gradients[key])), key
    assert state.keys() == same_state.keys()
    assert all(torch.equal(tensor, same_state[key]) for key, tensor in state.items())


def test_the_row_of_002_run_5_recomputes_and_no_other_does() -> None:
    assert [name for name, row in TABLE.items() if row.batches.recompute] == ["window3-lowmem"]
