"""Temporal terms against literal differences in float64; what they, their controls and their noise do to a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import store
from stages.sae import load, load_variants
from stages.sae.objective_row import BufferRow, ScaleRow, TemporalRow
from stages.train import train
from stages.train.optimiser import Optimiser
from stages.train.plan import make_plan
from stages.train.schedule import Boost
from stages.train.temporal import TemporalTerms, latent_weights
from stages.train.trainer import Trainer
from store.problem import Problem
from tests.train import small

LATENTS = 7
SCALES = (ScaleRow("short", (1, 2), 0.3), ScaleRow("medium", (3, 4), 0.2), ScaleRow("long", (5, 11), 0.1))
ROW = TemporalRow(SCALES, 10, 5, "variance", 0.01, "mean_variance")
ALL = 10_000
ONE = torch.ones(())
"""A step at which the terms have their full weight."""


def documents(seed: int, batch: int = 3, seq: int = 12) -> Tensor:
    """Sequences of a BOS, documents of random lengths with BOS between, and some padding."""
    rng = np.random.default_rng(seed)
    document = np.full((batch, seq), -1, np.int32)
    number = 0
    for row in range(batch):
        position = 1
        while position < seq - 1:
            length = int(rng.integers(1, seq))
            document[row, position : position + length] = number
            number, position = number + 1, position + length + 1
        document[row, rng.integers(seq - 2, seq) :] = -1
    document[0, 1:10] = number  # at least one document that has pairs at every scale
    return torch.from_numpy(document)


def random_codes(seed: int, segments: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*segments.shape, LATENTS, generator=generator, dtype=torch.float64).relu().requires_grad_()


def literal_weights(codes: Tensor, segments: Tensor) -> Tensor:
    """Weights by variance that keep the sum of variances, token by token."""
    kept = [codes[b, t].detach() for b, t in (segments >= 0).nonzero().tolist()]
    variance = sum((h - sum(kept) / len(kept)) ** 2 for h in kept) / len(kept)
    counted = variance >= 0.01 * variance.mean()
    return torch.where(counted, variance, 0) * variance[counted].sum() / (variance[counted] ** 2).sum()


def literal_pairs(codes: Tensor, segments: Tensor, lags: tuple[int, int], weights: Tensor) -> tuple[Tensor, int]:
    """The mean of the weighted |h_s - h_t|^2 over pairs, and their number."""
    terms = []
    for b in range(len(segments)):
        for s in range(segments.shape[1]):
            for t in range(s + lags[0], min(s + lags[1] + 1, segments.shape[1])):
                if segments[b, s] == segments[b, t] >= 0:
                    terms.append((weights * (codes[b, s] - codes[b, t]) ** 2).sum())
    return sum(terms) / len(terms), len(terms)


def literal_buffer(
    codes: Tensor, segments: Tensor, lag: int, mixing: float, initial: Tensor, weights: Tensor
) -> Tensor:
    """The mean distance of codes from a running mean that is updated token by token and reset at every document."""
    terms = []
    for b in range(len(segments)):
        for t in range(segments.shape[1]):
            if segments[b, t] < 0:
                continue
            buffer, updates = initial, 0
            for u in range(t - lag + 1):
                if segments[b, u] == segments[b, t]:
                    buffer, updates = (1 - mixing) * buffer + mixing * codes[b, u].detach(), updates + 1
            if updates:
                terms.append((weights * (codes[b, t] - buffer) ** 2).sum())
    return sum(terms) / len(terms)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_terms_and_gradients_equal_literal_differences(seed: int) -> None:
    segments = documents(seed)
    codes = random_codes(seed, segments)
    row = replace(ROW, buffers=BufferRow(sigma=0.1, mixing=0.25, mixing_after=0.4))
    found = TemporalTerms(row, seed, ALL)(codes, segments, ALL, ONE)
    assert found is not None
    (gradient,) = torch.autograd.grad(sum(found.terms.values()), codes)
    literal = codes.detach().clone().requires_grad_()
    weights = literal_weights(literal, segments)
    initial = {q.scale: q.initial for q in found.quadratics if q.kind == "buffer"}
    expected = {}
    for scale in SCALES:
        pairs, count = literal_pairs(literal, segments, scale.lags, weights)
        expected[f"temporal_{scale.name}"] = scale.weight * pairs
        assert found.pairs(scale.name) == count
        buffer = literal_buffer(literal, segments, scale.lags[0], 0.4, initial[scale.name], weights)
        expected[f"buffer_{scale.name}"] = scale.weight * buffer
    assert found.terms.keys() == expected.keys() == set(TemporalTerms(row, seed, ALL).names)
    for name, term in found.terms.items():
        torch.testing.assert_close(term, expected[name].detach(), rtol=1e-9, atol=1e-12)
    (literal_gradient,) = torch.autograd.grad(sum(expected.values()), literal)
    torch.testing.assert_close(gradient, literal_gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sum(found.gradient(codes, scale.name) for scale in SCALES), gradient)


@pytest.mark.parametrize(("products", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_products_in_the_machines_format_give_the_same_terms_and_gradient(
    products: torch.dtype, tolerance: float
) -> None:
    """Beside float64. A bfloat16 has 8 significant bits: each factor is off by up to 0.004 of itself."""
    row = replace(ROW, buffers=BufferRow(sigma=0.1, mixing=0.25, mixing_after=0.4))
    segments = documents(1)
    exact = random_codes(1, segments)
    rounded = exact.detach().float().requires_grad_()
    terms, gradients = [], []
    for codes, dtype in ((exact, torch.float64), (rounded, products)):
        found = TemporalTerms(row, 1, ALL)(codes, segments, ALL, ONE, dtype)
        assert found is not None
        terms.append(torch.stack(list(found.terms.values())).double())
        gradients.append(torch.autograd.grad(sum(found.terms.values()), codes)[0].double())
    assert gradients[1].isfinite().all()
    torch.testing.assert_close(terms[1], terms[0], rtol=tolerance, atol=0)
    assert (gradients[1] - gradients[0]).norm() <= tolerance * gradients[0].norm()
    assert (products == torch.bfloat16) == bool((gradients[1] - gradients[0]).norm() > 1e-5 * gradients[0].norm())


def test_each_term_has_its_own_gradient() -> None:
    """Whatever factor a caller gives each term, one product gives the gradient of their sum."""
    segments = documents(3)
    codes = random_codes(3, segments)
    found = TemporalTerms(ROW, 0, ALL)(codes, segments, ALL, ONE)
    assert found is not None
    factors = (2.0, -1.0, 0.5)
    total = sum(factor * term for factor, term in zip(factors, found.terms.values(), strict=True))
    (gradient,) = torch.autograd.grad(total, codes)
    parts = [factor * found.gradient(codes, scale.name) for factor, scale in zip(factors, SCALES, strict=True)]
    torch.testing.assert_close(gradient, sum(parts))


def test_buffers_start_at_random_values_of_the_codes_size() -> None:
    segments, row = documents(0), replace(ROW, buffers=BufferRow(0.1, 0.25, 0.1))
    codes = torch.rand(*segments.shape, 4000)
    found = TemporalTerms(row, 5, ALL)(codes, segments, ALL, ONE)
    again, other = (
        TemporalTerms(row, 5, ALL)(codes, segments, ALL, ONE),
        TemporalTerms(row, 5, ALL)(codes, segments, ALL + 1, ONE),
    )
    assert found is not None and again is not None and other is not None
    size = float(codes[segments >= 0].square().mean().sqrt())
    first = found.quadratics[3].initial
    assert first is not None and float(first.std()) == pytest.approx(0.1 * size, rel=0.05)
    assert torch.equal(first, again.quadratics[3].initial) and not torch.equal(first, other.quadratics[3].initial)


def test_the_state_of_buffers_is_logged() -> None:
    """Memories as they are token by token, without those of other documents."""
    segments = documents(4)
    codes = random_codes(4, segments)
    terms = TemporalTerms(replace(ROW, buffers=BufferRow(sigma=0.1, mixing=0.25, mixing_after=0.4)), 4, ALL)
    found = terms(codes, segments, ALL, ONE)
    assert found is not None
    metrics = terms.metrics(found, codes.detach(), segments, ONE, ONE)
    runs = {(b, int(document)) for b, row in enumerate(segments) for document in row if document >= 0}
    assert metrics["buffer/resets"] == len(runs)
    rms = codes.detach()[segments >= 0].square().mean().sqrt()
    for scale, q in zip(SCALES, found.quadratics[len(SCALES) :], strict=True):
        squares, left = [], []
        for b, t in (segments >= 0).nonzero().tolist():
            buffer, updates = q.initial, 0
            for u in range(t - scale.lags[0] + 1):
                if segments[b, u] == segments[b, t]:
                    buffer, updates = 0.6 * buffer + 0.4 * codes[b, u].detach(), updates + 1
            if updates:
                squares.append(buffer.square().mean())
                left.append(0.6**updates)
        assert metrics[f"buffer/tokens_{scale.name}"] == len(squares) > 0
        assert metrics[f"buffer/initial_{scale.name}"].item() == pytest.approx(sum(left) / len(left))
        expected = (sum(squares) / len(squares)).sqrt() / rms
        torch.testing.assert_close(metrics[f"buffer/rms_{scale.name}"], expected)
    before = terms.metrics(None, codes.detach(), segments, ONE, ONE)
    assert before.keys() == metrics.keys() and not any(value for value in before.values())


def test_delay_then_ramp_then_full_weight() -> None:
    segments = documents(1)
    codes = random_codes(1, segments)
    terms = TemporalTerms(ROW, 0, ALL)
    assert [terms.strength_at(step) for step in (0, 9, 10, 12, 14, 15, ALL)] == pytest.approx([0, 0, 0.2, 0.6, 1, 1, 1])
    assert terms(codes, segments, 9, ONE) is None
    early, late = terms(codes, segments, 10, ONE), terms(codes, segments, ALL, ONE)
    assert early is not None and late is not None
    for name, term in late.terms.items():
        torch.testing.assert_close(early.terms[name], 0.2 * term)


def test_mixing_changes_when_the_ramp_has_ended() -> None:
    segments, codes = documents(1), random_codes(1, documents(1))
    row = replace(ROW, buffers=BufferRow(0.1, 0.25, 0.1))
    ramping, full = (TemporalTerms(row, 0, ALL)(codes, segments, step, ONE) for step in (13, 14))
    assert ramping is not None and full is not None
    newest = [-found.quadratics[3].operator[0, 5, 4].item() for found in (ramping, full)]
    assert newest == pytest.approx([0.25, 0.1])


def test_boost_is_held_and_goes_back() -> None:
    boost = Boost(2.0, 4, 2)
    assert [boost.at(step) for step in (0, 3, 4, 5, 6, 100)] == pytest.approx([2, 2, 2, 1.5, 1, 1])
    assert Boost(1.0, 0, 0).at(0) == 1.0


def test_literal_readings_of_variance_switch_the_terms_off() -> None:
    """In normalised units an absolute threshold of 0.01 leaves no latent; shares of variance are d_sae times less."""
    segments = documents(2)
    keep = segments >= 0
    codes = torch.rand(*segments.shape, 500).sub(0.8).relu() / 5  # the size and sparsity that codes of norm 1 have
    read, share, absolute = (
        latent_weights(codes, keep, replace(ROW, **reading))
        for reading in ({}, {"latent_weights": "variance_share"}, {"threshold_unit": "normalised"})
    )
    variance = codes[keep].var(0, correction=0)
    assert read.weights @ variance == pytest.approx(float(variance.sum()), rel=1e-2)
    assert share.weights.sum() == pytest.approx(1, rel=1e-4)
    assert read.counted > 0.9 and absolute.counted == 0 and not absolute.weights.any()
    found = TemporalTerms(replace(ROW, threshold_unit="normalised"), 0, ALL)(codes.requires_grad_(), segments, ALL, ONE)
    assert found is not None and sum(found.terms.values()) == 0


def test_equal_weights_count_every_latent_alike() -> None:
    segments = documents(2)
    codes = random_codes(2, segments).detach()
    weights = latent_weights(codes, segments >= 0, replace(ROW, latent_weights="equal", variance_threshold=0.0)).weights
    assert torch.equal(weights, weights[:1].expand_as(weights))


def test_a_batch_without_pairs_is_refused() -> None:
    segments = torch.arange(12, dtype=torch.int32).repeat(2, 1)
    with pytest.raises(Problem, match="'short' has weight but saw no pairs"):
        TemporalTerms(ROW, 0, ALL)(torch.rand(2, 12, LATENTS), segments, ALL, ONE)


def test_a_store_without_pairs_is_refused_before_the_first_step(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = load_variants(small.TABLE)["warmup2000"]  # its long scale begins at lag 17, these sequences have 12 tokens
    with pytest.raises(Problem, match="'long' has weight but would see no pairs"):
        train(small.config(row, steps=4000), activations, small.LAYER, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_gradient_noise_fades_and_ends() -> None:
    row = small.temporal(delay=5).optimizer
    config = small.config(small.temporal())
    sae = Trainer(
        config, make_plan(1, 1), small.Normalisation(torch.zeros(64, dtype=torch.float64), 1.0), small.CONTEXT
    ).sae
    optimiser = Optimiser(replace(row, clip=None), sae, seed=0)

    def noise(step: int) -> Tensor:
        for parameter in sae.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        optimiser.prepare_gradients(step)
        gradient = sae.W_enc.grad
        assert gradient is not None
        return gradient - 3.0

    assert noise(0).std() == pytest.approx(0.01 * 3, rel=0.1)
    assert noise(3).std() == pytest.approx(0.01 * 3 / 4 ** (0.55 / 2), rel=0.1)
    assert torch.equal(noise(3), noise(3)) and not torch.equal(noise(3), noise(2))
    assert not noise(5).any()


def slow_and_fast_activations(rows: int) -> np.ndarray:
    """Half of the directions are on or off for a whole sequence, the others for one token."""
    rng = np.random.default_rng(1)
    d, n = small.D, small.D
    on = rng.random((rows, small.CONTEXT, 2 * n)) < 0.1
    on[:, :, :n] = on[:, :1, :n]
    strength = on * rng.gamma(4.0, 0.5, (rows, small.CONTEXT, 2 * n))
    x = strength @ rng.standard_normal((2 * n, d)) + 0.1 * rng.standard_normal((rows, small.CONTEXT, d)) + 20.0
    return x.astype(np.float32)


def consistency_of(folder: Path, activations: store.ActivationStore) -> float:
    """1 - E|h_{t+1} - h_t|^2 / (2 variance), over latents, within documents of the heldout rows."""
    rows = activations.rows("heldout")
    document = torch.from_numpy(activations.document(rows))
    codes = load(folder / "sae").encode(activations.read(small.LAYER, rows).float()).detach().double()
    pairs = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    change = (codes[:, 1:] - codes[:, :-1])[pairs].square().mean(0)
    variance = codes[document >= 0].var(0)
    alive = variance > 0
    return float(1 - (change[alive] / (2 * variance[alive])).mean())


def test_order_is_what_the_terms_see(tmp_path: Path) -> None:
    """Without the terms, or without order, another SAE is trained, of another consistency."""
    activations = small.make_store(tmp_path / "store", rows=60, activations=slow_and_fast_activations(60))
    scores = {}
    for name in ("warmup2000", "warmup2000+no-temporal", "warmup2000+permuted"):
        config = small.config(small.temporal(name, delay=20, ramp=20, lr=2e-3, weight=4.0, l1=0.06), steps=400)
        result = train(config, activations, small.LAYER, tmp_path / name)
        assert result.training["steps_done"] == 400 and result.training["variant"] == name
        scores[name] = consistency_of(tmp_path / name, activations)
    weights = {(tmp_path / name / "sae/sae_weights.safetensors").read_bytes() for name in scores}
    assert len(weights) == 3
    assert scores["warmup2000"] > scores["warmup2000+no-temporal"] + 0.005
    assert abs(scores["warmup2000"] - scores["warmup2000+permuted"]) > 1e-4


def test_a_control_without_weight_is_its_variant_until_the_terms_begin(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    logs = {}
    for name in ("warmup2000", "warmup2000+no-temporal"):
        result = train(small.config(small.temporal(name, delay=12, lr=3e-3)), activations, small.LAYER, tmp_path / name)
        table = result.folder / "metrics/plots/metrics/loss/reconstruction.tsv"
        logs[name] = [line.split("\t")[1] for line in table.read_text().splitlines()[1:]]
    assert logs["warmup2000"][:5] == logs["warmup2000+no-temporal"][:5]  # steps 0 to 12: the first term is step 12's
    assert logs["warmup2000"][-1] != logs["warmup2000+no-temporal"][-1]


def test_temporal_metrics_are_logged_for_every_scale(activations: store.ActivationStore, tmp_path: Path) -> None:
    result = train(small.config(small.temporal(lr=3e-3)), activations, small.LAYER, tmp_path / "run")
    final = result.training["final"]
    for scale in ("short", "medium", "long"):
        both = final[f"loss/temporal_{scale}"] + final[f"loss/buffer_{scale}"]
        assert final[f"temporal/ratio_{scale}"] == pytest.approx(both / final["loss/reconstruction"], rel=1e-5)
        assert final[f"temporal/gradient_{scale}"] > 0 and final[f"temporal/pairs_{scale}"] > 0
        rows = (result.folder / f"metrics/plots/metrics/temporal/ratio_{scale}.tsv").read_text().splitlines()
        assert [float(row.split("\t")[1]) for row in rows[1:2]] == [0.0] and len(rows) == 12
    assert 0 < final["temporal/counted_latents"] <= 1
