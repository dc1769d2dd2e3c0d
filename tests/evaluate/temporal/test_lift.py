"""Pairs of latents, one following or repeating the other, against literal definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.evaluate.temporal import consistency, gram
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.lift import FALSE_DISCOVERIES, LiftSums, rejected
from stages.evaluate.temporal.segments import Segments
from tests.evaluate.temporal import patterns_literal as literal
from tests.evaluate.temporal.pattern_sample import CPU, D, Sample, measure_of
from tests.evaluate.temporal.temporal_literal import kept


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(consistency, "MIN_PAIRS", 12)


@pytest.fixture(params=[(24, 5), (40, 13)], ids=["short rows", "long rows"], scope="module")
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(*request.param)


@pytest.mark.parametrize("sparse", [0.0, 1.0], ids=["dense products", "sparse products"])
def test_redundancy(sample: Sample, sparse: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "SPARSE", sparse)
    twice = [
        np.concatenate([h, 2 * h[..., :1] + 0.1 * (h[..., 1:2] > 0).astype(np.float32)], axis=-1) for h in sample.h
    ]
    found = measure_of(twice, sample.documents).patterns.redundancy
    share, rank = literal.redundancy(kept([h.astype(np.float64) for h in twice], sample.documents))
    assert found is not None and found.columns == D + 1
    assert 0 < found.high_share == pytest.approx(share)
    assert found.effective_rank == pytest.approx(rank, rel=1e-3)


def sums_of(a: list[np.ndarray], documents: list[np.ndarray]) -> LiftSums:
    sums = LiftSums(torch.arange(a[0].shape[-1]))
    for batch, document in zip(a, documents, strict=True):
        segments = Segments(document, CPU)
        sums.add(Firings(segments.kept(torch.as_tensor(batch)) > 0), segments)
    return sums


def test_counts_of_what_follows_what_and_their_mean_in_random_order(sample: Sample) -> None:
    sums = sums_of(sample.a, sample.documents)
    counts = literal.followed(sample.a, sample.documents)
    np.testing.assert_array_equal(sums.counts, counts)
    first, _ = literal.gather(sample.a, sample.documents, 1)
    marginal = kept(sample.a, sample.documents).mean(0)
    np.testing.assert_allclose(sums.lift, counts / first.sum(0)[:, None] / marginal, rtol=1e-5)
    times = 400
    drawn = literal.followed_in_random_order(sample.a, sample.documents, np.random.default_rng(0), times)
    apart = ~np.eye(D, dtype=bool)
    np.testing.assert_allclose(sums.expected[apart], drawn[apart], atol=5 * math.sqrt(drawn.max() / times))
    assert not np.allclose(sums.expected[apart], counts[apart], atol=5 * math.sqrt(drawn.max() / times))


def test_significant_edges(sample: Sample) -> None:
    """Latent 5 is always one token behind latent 0."""
    a = [batch.copy() for batch in sample.a]
    for batch in a:
        batch[:, 1:, 5] = batch[:, :-1, 0]
        batch[:, 0, 5] = 0
    numbers = torch.arange(D) * 10 + 3
    found = measure_of([b.astype(np.float32) for b in a], sample.documents, latents=numbers).patterns.lift
    assert found is not None and found.latents == D and found.tests == D * (D - 1)
    assert found.edges == len(found.top) < found.tests
    best = found.top[0]
    assert (best.first, best.second) == (3, 53)
    counts = literal.followed(a, sample.documents)
    assert best.count == counts[0, 5] > 2 * best.expected
    poisson = sum(
        math.exp(-best.expected + k * math.log(best.expected) - math.lgamma(k + 1)) for k in range(best.count)
    )
    assert best.p == pytest.approx(1 - poisson, abs=1e-12)


def test_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    for tests in (60, 100):
        p = np.concatenate([rng.random(40), rng.random(20) ** 6])
        expected = literal.benjamini_hochberg(p, FALSE_DISCOVERIES, tests)
        assert 0 < expected.sum() < 20
        np.testing.assert_array_equal(rejected(torch.as_tensor(p), tests), expected)
    assert not rejected(torch.ones(3, dtype=torch.float64), 3).any()


def test_only_the_latents_that_fire_most_are_crossed(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.evaluate.temporal.patterns.LIMIT", 3)
    firings = kept(sample.a, sample.documents).sum(0)
    most = np.sort(np.argsort(-firings, kind="stable")[:3])
    found = measure_of(sample.h, sample.documents).patterns
    alone = measure_of([h[..., most] for h in sample.h], sample.documents, latents=torch.as_tensor(most)).patterns
    assert found.lift == alone.lift and found.lift.latents == 3
    assert found.redundancy == alone.redundancy
