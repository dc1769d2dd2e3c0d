from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.sae import SAE, Normalisation, load_variants
from stages.sae.build import Blueprint
from stages.sae.sparsifier import ReLU, Sparsifier, TopK

SPARSIFIERS = [ReLU(), TopK(5)]


def made(sparsifier: Sparsifier, seed: int = 0) -> SAE:
    sae = SAE(8, 24, sparsifier)
    sae.initialise(seed)
    return sae


def test_initialisation_is_tied_unit_norm_and_follows_the_seed() -> None:
    sae = made(ReLU())
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(24))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any() and not sae.b_dec.any()
    assert torch.equal(sae.W_dec, made(ReLU()).W_dec)
    assert not torch.equal(sae.W_dec, made(ReLU(), seed=1).W_dec)


def test_kaiming_draws_the_encoder_with_variance_2_over_d_in_and_decodes_along_it() -> None:
    sae = SAE(64, 2000, ReLU())
    sae.initialise(0, "kaiming")
    columns = sae.W_enc.detach().T
    assert float(columns.square().mean()) == pytest.approx(2 / 64, rel=0.02)
    assert abs(float(columns.mean())) < 3 * (2 / 64 / columns.numel()) ** 0.5
    assert float(columns.pow(4).mean()) == pytest.approx(3 * (2 / 64) ** 2, rel=0.05), "normal, so its kurtosis is 3"
    torch.testing.assert_close(sae.W_dec.detach(), columns / columns.square().sum(-1, keepdim=True).sqrt())
    assert not sae.b_enc.any() and not sae.b_dec.any()
    row = load_variants(Path(__file__).parents[2] / "variants.yaml")["minimal-base"]
    assert torch.equal(Blueprint.of(row, 64, 2000, 4, 12).make(0).W_enc, sae.W_enc)


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
@pytest.mark.parametrize("shape", [(3, 4, 8), (11, 8)])
def test_forward_is_decode_of_encode(sparsifier: Sparsifier, shape: tuple[int, ...]) -> None:
    sae, x = made(sparsifier), torch.randn(shape)
    codes = sae.encode(x, segments=torch.zeros(shape[:-1], dtype=torch.int32), start=3)
    assert codes.shape == (*shape[:-1], 24)
    assert (codes >= 0).all()
    torch.testing.assert_close(sae.decode(codes), sae(x), rtol=1e-5, atol=1e-6)


def test_topk_activates_at_most_k_and_the_largest() -> None:
    sae, x = made(TopK(5)), torch.randn(50, 8)
    codes = sae.encode(x)
    pre = (x @ sae.W_enc).detach()
    assert ((codes > 0).sum(-1) <= 5).all()
    threshold = pre.sort(descending=True).values[:, 4:5]
    torch.testing.assert_close(codes, torch.where(pre >= threshold, pre.relu(), 0.0))


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
def test_pre_activations_of_some_latents(sparsifier: Sparsifier) -> None:
    sae, x = made(sparsifier), torch.randn(3, 4, 8)
    latents = torch.tensor([20, 3])
    torch.testing.assert_close(sae.pre_activations(sae.encoding(x), latents), (x @ sae.W_enc)[..., latents])


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 1e4), st.floats(-1e3, 1e3), st.integers(0, 100))
def test_normalised_inputs_have_unit_mean_square_norm(scale: float, offset: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (offset + torch.randn(6, 7, 5, generator=generator, dtype=torch.float64)) * scale
    keep = torch.rand(6, 7, generator=generator) < 0.7
    keep[0, 0] = keep[1, 1] = True
    mean = x[keep].mean(0)
    spread = (x[keep] - mean).square().sum(-1).mean().sqrt().item()
    normalised = Normalisation(mean, spread).apply(x, keep)
    assert normalised.dtype == torch.float32
    assert normalised[keep].square().sum(-1).mean().item() == pytest.approx(1, rel=1e-2)
    assert not normalised[~keep].any()


def test_what_is_not_kept_is_zero_even_where_it_is_not_finite() -> None:
    x = torch.tensor([[[float("nan"), float("inf")], [1.0, 2.0]]], dtype=torch.bfloat16)
    keep = torch.tensor([[False, True]])
    normalised = Normalisation(torch.zeros(2, dtype=torch.float64), 2.0).apply(x, keep)
    assert normalised.tolist() == [[[0.0, 0.0], [0.5, 1.0]]]
    assert x.isnan().any(), "the store's memory is not written to"
