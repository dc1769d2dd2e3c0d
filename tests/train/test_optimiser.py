"""The optimiser against literal formulas: clipping by value, and what weight decay leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.sae import SAE, load_variants
from stages.sae.build import Blueprint
from stages.train.optimiser import Optimiser
from tests.train import small

TABLE = load_variants(small.TABLE)
DECAYING = {
    "adamw-base": {"W_enc"},
    "paper": {"W_enc", "gate.table", "gate.weight"},
    "tfa": {"W_enc", *(f"prediction.{name}.weight" for name in ("query", "key", "value", "output"))},
}
"""Rows with weight decay, and what it reaches: matrices, but for the decoder's."""


def made(name: str) -> SAE:
    """The SAE of a row with no parameter that is zero."""
    sae = Blueprint.of(TABLE[name], 8, 32, 4, 12).make(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        sae.W_dec.div_(sae.W_dec.norm(dim=-1, keepdim=True))
    return sae


def give_gradients(sae: SAE, size: float) -> dict[str, Tensor]:
    """Random gradients, and what they are once the decoder's are orthogonal to its rows."""
    generator = torch.Generator().manual_seed(2)
    expected = {}
    for name, parameter in sae.named_parameters():
        gradient = size * torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.clone()
        along = (gradient * parameter).sum(-1, keepdim=True) * parameter if name == "W_dec" else 0.0
        expected[name] = (gradient - along).detach()
    return expected


def test_clipping_by_value_bounds_every_entry() -> None:
    sae = made("adamw-base")
    expected = give_gradients(sae, size=1.5)
    prepared = Optimiser(TABLE["adamw-base"].optimizer, sae, 0).prepare_gradients(0)
    beyond = total = 0
    for name, parameter in sae.named_parameters():
        literal = expected[name].apply_(lambda entry: max(-1.0, min(1.0, entry)))
        torch.testing.assert_close(parameter.grad, literal)
        beyond += int((literal.abs() == 1).sum())
        total += literal.numel()
    assert 0.3 < beyond / total < 0.7
    assert prepared.clipped.item() == pytest.approx(beyond / total)


@pytest.mark.parametrize("limit", [0.25, None])
def test_the_limit_is_that_of_the_row(limit: float | None) -> None:
    sae = made("adamw-base")
    expected = give_gradients(sae, size=1.5)
    Optimiser(replace(TABLE["adamw-base"].optimizer, clip_value=limit), sae, 0).prepare_gradients(0)
    largest = max(float(parameter.grad.abs().max()) for parameter in sae.parameters())
    assert largest == pytest.approx(limit or max(float(gradient.abs().max()) for gradient in expected.values()))


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_leaves_biases_and_the_decoder_alone(name: str) -> None:
    """Beside Adam's first step, `lr * g / (|g| + 1e-8)` at every entry; what decays first loses `lr * weight_decay`."""
    sae, lr, row = made(name), 0.5, TABLE[name].optimizer
    before = {key: parameter.detach().clone() for key, parameter in sae.named_parameters()}
    gradients = give_gradients(sae, size=1.0)
    for key, parameter in sae.named_parameters():
        parameter.grad = gradients[key].clone()
    Optimiser(row, sae, 0).step(lr)
    assert row.weight_decay > 0 and DECAYING[name] < before.keys()
    for key, parameter in sae.named_parameters():
        shrunk = 1 - lr * row.weight_decay if key in DECAYING[name] else 1.0
        expected = before[key] * shrunk - lr * gradients[key] / (gradients[key].abs() + 1e-8)
        if key == "W_dec":
            expected = expected / expected.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=2e-6, msg=key)


def test_other_rows_decay_nothing() -> None:
    assert {name for name, row in TABLE.items() if row.optimizer.weight_decay} == DECAYING.keys()
