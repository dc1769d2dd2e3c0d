"""Loss terms beside reconstruction and L1, against literal transcriptions of their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.sae import load_variants
from stages.sae.codes import DenseCodes, SparseCodes
from stages.sae.model import SAE
from stages.sae.objective_row import AdaptiveRow, ContrastRow, DecayRow, LevelRow, ScaleRow, SeparationRow, TemporalRow
from stages.sae.products import Selection
from stages.sae.sparsifier import ReLU
from stages.train.randomness import generator_at
from stages.train.temporal import TemporalTerms
from stages.train.terms import contrast, level_errors, separation
from store.problem import Problem
from tests.train import small

D_IN, D_SAE = 6, 20
SEGMENTS = torch.tensor([[-1, 0, 0, 0, 0, 1, 1, -1], [-1, 2, 3, 3, 3, 3, 3, 3]], dtype=torch.int32)
ROW = TemporalRow(
    scales=(ScaleRow("near", (1, 2), 0.1), ScaleRow("far", (3, 5), 0.01)),
    delay=4,
    ramp=4,
    latent_weights="equal",
    variance_threshold=0.0,
    threshold_unit="mean_variance",
)


def made(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, codes, decoder and its bias."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(2, 8, D_SAE, generator=generator, dtype=torch.float64)
    codes = codes * (torch.rand(codes.shape, generator=generator) < 0.4)
    x, W_dec, b_dec = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 8, D_IN), (D_SAE, D_IN), (D_IN,))
    )
    return x, codes, W_dec, b_dec


def sparse(codes: Tensor) -> SparseCodes:
    """The same codes as choices."""
    selection = Selection.of_places((codes > 0).flatten().nonzero().squeeze(-1), 16, D_SAE)
    return SparseCodes(codes[codes > 0], selection, tuple(codes.shape[:-1]))


def test_levels_are_reconstructions_from_the_first_latents() -> None:
    x, codes, W_dec, b_dec = made()
    row = replace(
        load_variants(small.TABLE)["topk"].objective, levels=(LevelRow(0.1, 1), LevelRow(0.25, 1), LevelRow(1, 1))
    )
    widths = row.level_widths(D_SAE)
    assert widths == [2, 5, D_SAE]
    sae = SAE(D_IN, D_SAE, ReLU()).double()
    with torch.no_grad():
        sae.W_dec.copy_(W_dec)
        sae.b_dec.copy_(b_dec)
    for form in (DenseCodes(codes), sparse(codes)):
        for width, error in zip((2, 5, D_SAE), level_errors(x, form, sae, widths), strict=True):
            torch.testing.assert_close(error, x - (codes[..., :width] @ W_dec[:width] + b_dec))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_contrast_is_the_papers_sum_over_pairs(similarity: str) -> None:
    _, codes, _, _ = made()
    row = ContrastRow(share=0.5, weight=1.0, similarity=similarity, scale=1.0 if similarity == "cosine" else 1.7)  # type: ignore[arg-type]
    split = D_SAE // 2
    pairs = [
        ((b, t), (b, t - 1))
        for b in range(2)
        for t in range(1, 8)
        if SEGMENTS[b, t] == SEGMENTS[b, t - 1] and SEGMENTS[b, t] >= 0
    ]

    def s(one_at: tuple[int, int], other_at: tuple[int, int]) -> float:
        one, other = (codes[place][:split] for place in (one_at, other_at))
        dot = float(one @ other)
        return dot / float(one.norm() * other.norm()) if similarity == "cosine" else dot * row.scale**2

    expected = 0.0
    for now, before in pairs:
        among_befores = sum(math.exp(s(now, other)) for _, other in pairs if other != now)
        among_nows = sum(math.exp(s(other, before)) for other, _ in pairs if other != before)
        expected -= (2 * s(now, before) - math.log(among_befores) - math.log(among_nows)) / len(pairs)
    for form in (DenseCodes(codes), sparse(codes)):
        loss, count = contrast(form, SEGMENTS, row, D_SAE)
        assert count == len(pairs) == 9
        assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("row", [ContrastRow(0.5, 1.0, "cosine"), ContrastRow(1.0, 1.0, "dot", 1.7)])
def test_gradients_of_the_contrast_are_right_in_both_forms(row: ContrastRow) -> None:
    codes = made()[1]
    values = codes[codes > 0].requires_grad_()
    dense = codes.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda h: contrast(DenseCodes(h), SEGMENTS, row, D_SAE)[0], (dense,), atol=1e-6)
    contrast(DenseCodes(dense), SEGMENTS, row, D_SAE)[0].backward()
    contrast(replace(sparse(codes), values=values), SEGMENTS, row, D_SAE)[0].backward()
    assert dense.grad is not None and values.grad is not None and values.grad.abs().max() > 0
    torch.testing.assert_close(values.grad, dense.grad[codes > 0])


def test_contrast_lets_tokens_without_an_active_latent_be() -> None:
    codes = made()[1]
    codes[0, 2] = 0
    for form in (DenseCodes(codes.requires_grad_()), sparse(codes.detach())):
        assert contrast(form, SEGMENTS, ContrastRow(0.5, 1.0, "cosine"), D_SAE)[0].isfinite()
    contrast(DenseCodes(codes), SEGMENTS, ContrastRow(0.5, 1.0, "cosine"), D_SAE)[0].backward()
    assert codes.grad is not None and codes.grad.isfinite().all()


def test_contrast_without_pairs_is_refused() -> None:
    alone = torch.arange(16).view(2, 8)
    with pytest.raises(Problem, match="saw no pairs"):
        contrast(DenseCodes(made()[1]), alone, ContrastRow(0.5, 1.0, "cosine"), D_SAE)


def test_separation_is_the_mean_over_pairs_of_sampled_rows() -> None:
    _, _, W_dec, _ = made()
    row, seed, step = SeparationRow(0.1, 7), 3, 11
    drawn = torch.randperm(D_SAE, generator=generator_at(seed, step, "separation"))[:7]
    values = [
        max(0.0, float(torch.nn.functional.cosine_similarity(W_dec[i], W_dec[j], dim=0))) ** 2
        for i in drawn
        for j in drawn
        if i != j
    ]
    assert separation(W_dec, row, seed, step).item() == pytest.approx(sum(values) / len(values))
    assert separation(W_dec, row, seed, step + 1) != separation(W_dec, row, seed, step)


def test_a_sum_over_lags_lets_the_longest_scale_dominate() -> None:
    """004's eq. 1 to the letter: for each lag the mean over tokens, summed over lags."""
    _, codes, _, _ = made()
    found = TemporalTerms(replace(ROW, over_lags="sum"), 0, 100)(codes, SEGMENTS, 99, torch.ones(()))
    assert found is not None
    kept = int((SEGMENTS >= 0).sum())
    for scale in ROW.scales:
        expected = 0.0
        for lag in range(scale.lags[0], scale.lags[1] + 1):
            for b in range(2):
                for t in range(lag, 8):
                    if SEGMENTS[b, t] == SEGMENTS[b, t - lag] and SEGMENTS[b, t] >= 0:
                        expected += float((codes[b, t] - codes[b, t - lag]).square().sum()) / kept
        assert found.terms[f"temporal_{scale.name}"].item() == pytest.approx(scale.weight * expected)


def test_adaptive_weights_bound_a_scale_by_the_reconstruction_loss() -> None:
    _, codes, _, _ = made()
    reconstruction = torch.tensor(0.5, dtype=torch.float64)
    free, bound = (TemporalTerms(replace(ROW, adaptive=adaptive), 0, 100) for adaptive in (None, AdaptiveRow(0.1, 0.5)))
    plain, limited = (terms(codes, SEGMENTS, 50, reconstruction) for terms in (free, bound))
    assert plain is not None and limited is not None
    assert plain.terms["temporal_near"] > 0.05 > plain.terms["temporal_far"], "one above its bound, one below"
    assert limited.terms["temporal_near"].item() == pytest.approx(0.1 * 0.5)
    torch.testing.assert_close(limited.terms["temporal_far"], plain.terms["temporal_far"])
    # The running means: after a batch with twice the codes (four times the loss) they have moved half-way.
    again = bound(2 * codes, SEGMENTS, 51, reconstruction)
    assert again is not None
    near = float(plain.terms["temporal_near"])
    expected = 4 * near * min(1.0, 0.05 / (0.5 * near + 0.5 * 4 * near))
    assert again.terms["temporal_near"].item() == pytest.approx(expected)
    ratio = again.gradient(2 * codes, "near").norm() / plain.gradient(2 * codes, "near").norm()
    assert ratio.item() == pytest.approx(float(again.factors["near"]))


def test_temporal_weights_halve_after_the_ramp_down_to_a_floor() -> None:
    terms = TemporalTerms(replace(ROW, decay=DecayRow(half_life=0.25, floor=0.1)), 0, 108)
    assert [terms.strength_at(step) for step in (3, 4, 7, 8, 33, 58, 107)] == pytest.approx(
        [0, 0.25, 1, 1, 0.5, 0.25, 0.1]
    )
