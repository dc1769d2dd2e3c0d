"""Patterns of activation of processes with known answers, at the sample sizes that the evaluation asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.evaluate.standard_error import standard_error
from stages.evaluate.temporal.clusters import clusters
from stages.evaluate.temporal.measure import Measure
from stages.evaluate.temporal.patterns import Patterns
from store.pairs import permutation_within_documents
from tests.evaluate.temporal.pattern_sample import measure_of

SHAPE = (240, 96)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def two_documents_a_row(rows: int = SHAPE[0], context: int = SHAPE[1]) -> np.ndarray:
    """BOS first and between them."""
    document = np.full((rows, context), -1, dtype=np.int32)
    middle = context // 2
    document[:, 1:middle], document[:, middle + 1 :] = 2 * np.arange(rows)[:, None], 2 * np.arange(rows)[:, None] + 1
    return document


def measured(h: np.ndarray, document: np.ndarray | None = None, ends: np.ndarray | None = None) -> Measure:
    """Of rows, in 12 batches."""
    arrays = [h.astype(np.float32), two_documents_a_row(*h.shape[:2]) if document is None else document]
    return measure_of(*(np.array_split(array, 12) for array in [*arrays, *([] if ends is None else [ends])]))


def patterns(h: np.ndarray) -> Patterns:
    return measured(h).patterns


def chain(on: float, stay: float, d: int, rng: np.random.Generator) -> np.ndarray:
    """Stationary two-state chains with P(0 -> 1) and P(1 -> 1)."""
    state = np.zeros((*SHAPE, d))
    state[:, 0] = rng.random((SHAPE[0], d)) < on / (1 - stay + on)
    for t in range(1, SHAPE[1]):
        state[:, t] = rng.random((SHAPE[0], d)) < np.where(state[:, t - 1] == 1, stay, on)
    return state


def test_independent_firings_live_as_long_as_chance_has_it() -> None:
    p = np.linspace(0.02, 0.6, 30)
    found = patterns(np.random.default_rng(0).random((*SHAPE, 30)) < p)
    assert found.lifetime.ratio == pytest.approx(1, abs=0.01)
    assert standard_error(found.lifetime.replicates["lifetime_ratio"]) < 0.01
    assert all(decile["ratio"] == pytest.approx(1, abs=0.04) for decile in found.lifetime.deciles)
    assert [decile["tokens"] for decile in found.lifetime.deciles] == pytest.approx(
        [np.median(1 / (1 - values[:-1])) for values in np.split(p, 10)], rel=0.05
    )
    assert found.integrated_time < 1.05
    assert found.transitions.response_document == pytest.approx(1, abs=0.05)
    expected = 1 - (p @ p) / p.sum()  # each latent is as likely to be there again as to be there
    assert found.transitions.turnover == pytest.approx(expected, abs=0.02)
    assert found.position.slope < 0.02 and abs(found.position.correlation_mean) < 0.01
    assert all(abs(value) < 0.02 for row in found.position.autocorrelation.values() for value in row if value == value)
    assert found.redundancy.effective_rank == pytest.approx(30, abs=0.1)
    assert found.redundancy.high_share == 0


def test_of_independent_firings_about_no_edge_is_significant() -> None:
    edges, tests = 0, 0
    for seed in range(5):
        found = patterns(np.random.default_rng(seed).random((*SHAPE, 40)) < 0.05).lift
        edges, tests = edges + found.edges, tests + found.tests
    assert tests == 5 * 40 * 39
    assert edges <= 2  # where all nulls hold, a sample has any with a probability of 0.05


def test_topics_alone_make_lift_but_no_edges() -> None:
    """Latents fire in half of the documents, in random order: they follow each other because they share documents."""
    rng, document = np.random.default_rng(0), two_documents_a_row()
    topical = rng.random((document.max() + 2, 40)) < np.repeat(
        [[1], [0]], [document.max() // 2, document.max() // 2 + 3], 0
    )
    h = (rng.random((*SHAPE, 40)) < 0.08) * topical[document]
    edges = measured(h, document).patterns.lift
    assert edges.edges <= 2
    following = rng.integers(40, size=5)
    h[:, 1:, following] = h[:, :-1, (following + 1) % 40]
    found = measured(h, document).patterns.lift
    assert found.edges >= 5
    assert found.log_lift > math.log(2)


@pytest.mark.parametrize(("on", "stay"), [(0.02, 0.8), (0.1, 0.5), (0.05, 0.9)])
def test_two_state_chains(on: float, stay: float) -> None:
    found = patterns(chain(on, stay, 12, np.random.default_rng(0)))
    density, eigenvalue = on / (1 - stay + on), stay - on
    assert found.transitions.on == pytest.approx(on, rel=0.05)
    assert found.transitions.stay == pytest.approx(stay, rel=0.02)
    assert found.lifetime.tokens == pytest.approx(1 / (1 - stay), rel=0.03)
    assert found.lifetime.geometric == pytest.approx(1 / (1 - stay), rel=0.03)
    assert found.lifetime.ratio == pytest.approx((1 - density) / (1 - stay), rel=0.03)
    assert found.integrated_time == pytest.approx((1 + eigenvalue) / (1 - eigenvalue), rel=0.15)


def test_runs_that_rows_cut_would_look_too_short_without_censoring() -> None:
    """Chains that stay on for 20 tokens, in rows of 12."""
    rng, stay = np.random.default_rng(0), 0.95
    state = np.zeros((2000, 12, 6))
    state[:, 0] = rng.random((2000, 6)) < 0.5
    for t in range(1, 12):
        state[:, t] = rng.random((2000, 6)) < np.where(state[:, t - 1] == 1, stay, 1 - stay)
    document = np.arange(2000, dtype=np.int32)[:, None].repeat(12, 1)
    horizon = 11
    found = measured(state, document).patterns.lifetime
    assert found.tokens == pytest.approx((1 - stay**horizon) / (1 - stay), rel=0.02)
    assert found.geometric == pytest.approx(20, rel=0.05)


def test_what_is_constant_within_documents_never_ends() -> None:
    level = np.random.default_rng(0).random((2 * SHAPE[0] + 1, 60))
    document = two_documents_a_row()
    found = measured(np.where(level > 0.8, level, 0)[document], document).patterns
    assert found.lifetime.tokens == 64
    assert found.lifetime.geometric == math.inf
    assert found.lifetime.ratio == pytest.approx(64 * 0.8, rel=0.1)
    assert found.transitions.turnover == 0
    assert found.transitions.turnover_document_boundary == pytest.approx(0.8, abs=0.05)
    assert found.integrated_time > 60
    assert found.position.correlation_mean == pytest.approx(1, abs=1e-4)
    assert found.lift.edges == 0  # nothing changes with the order


def test_what_is_constant_everywhere_has_no_correlation() -> None:
    found = measured(np.ones((*SHAPE, 4))).document()["patterns"]
    assert found["lifetime"]["tokens"] == 64
    assert found["lifetime"]["ratio"] == 1
    assert found["transitions"]["turnover"] == found["transitions"]["turnover_document_boundary"] == 0
    assert found["integrated_time"] is found["position"]["slope"] is found["redundancy"]["effective_rank"] is None
    assert found["position"]["correlation_mean"] is found["clusters"]["silhouette"] is None


def test_the_autocorrelation_of_an_autoregression_is_the_same_in_every_band() -> None:
    rng, phi = np.random.default_rng(0), 0.8
    h = rng.standard_normal((400, 128, 20))
    for t in range(1, 128):
        h[:, t] = phi * h[:, t - 1] + math.sqrt(1 - phi**2) * h[:, t]
    document = np.arange(400, dtype=np.int32)[:, None].repeat(128, 1)
    found = measured(np.maximum(h + 5, 0), document).patterns
    for lag in (1, 4, 16):
        assert found.position.autocorrelation[str(lag)] == pytest.approx([phi**lag] * 4, abs=0.02), lag
    late = found.position.autocorrelation["64"]
    assert np.isnan(late[:2]).all() and late[2:] == pytest.approx([0, 0], abs=0.02)
    assert found.integrated_time == pytest.approx((1 + phi) / (1 - phi), rel=0.1)


def test_context_that_builds_up_along_the_row_shows_in_the_bands() -> None:
    rng = np.random.default_rng(0)
    level, noise = rng.standard_normal((400, 1, 10)), rng.standard_normal((400, 128, 10))
    share = np.linspace(0, 1, 128)[:, None]
    document = np.arange(400, dtype=np.int32)[:, None].repeat(128, 1)
    banded = measured(np.maximum(share * level + noise + 5, 0), document).patterns.position.autocorrelation["4"]
    assert banded == sorted(banded) and banded[0] < 0.1 and banded[3] > 0.25


def test_a_trend_along_the_row() -> None:
    rng = np.random.default_rng(0)
    trend = np.arange(SHAPE[1]) * math.sqrt(12) / SHAPE[1]
    noise = rng.standard_normal((*SHAPE, 10)) + 10
    found = patterns(noise + trend[:, None] * np.where(np.arange(10) % 2, 1, -1))
    assert found.position.slope == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert abs(found.position.correlation_mean) < 0.02  # means at a position are taken away


def test_sentences_that_latents_respect() -> None:
    """Active sets are drawn anew after every sentence."""
    rng = np.random.default_rng(0)
    ends = rng.random(SHAPE) < 0.1
    sentence = np.zeros(SHAPE, dtype=int)
    sentence[:, 1:] = ends[:, :-1].cumsum(axis=1)
    levels = rng.random((*SHAPE, 20)) < 0.2
    h = np.take_along_axis(levels, sentence[..., None], axis=1)
    found = measured(h, ends=ends).patterns.transitions
    assert found.turnover_interior == 0
    assert found.turnover_sentence_boundary == pytest.approx(0.8, abs=0.02)
    assert 0 < found.turnover < 0.1
    drifting = np.where(rng.random((*SHAPE, 1)) < 0.2, rng.random((*SHAPE, 20)) < 0.2, h)
    response = measured(drifting, ends=ends).patterns.transitions.response_sentence
    order = permutation_within_documents(two_documents_a_row(), rng)
    null = measured(np.take_along_axis(drifting, order[..., None], 1), ends=ends).patterns.transitions
    assert response > 1.5 and null.response_sentence == pytest.approx(1, abs=0.05)


def test_latents_that_say_the_same() -> None:
    rng = np.random.default_rng(0)
    h = np.maximum(rng.standard_normal((*SHAPE, 10)), 0)
    found = patterns(np.concatenate([h, 3 * h], axis=-1)).redundancy
    assert found.high_share == pytest.approx(10 / (20 * 19 / 2))
    assert found.effective_rank == pytest.approx(10, abs=0.1)


def test_kinds_of_latents_are_found_again() -> None:
    rng = np.random.default_rng(0)
    kinds = [chain(0.01, 0.9, 40, rng), chain(0.3, 0.3, 30, rng)]
    h = np.concatenate(kinds, axis=-1) * (1 + rng.random((*SHAPE, 70)))
    found = patterns(h).clusters
    assert found.sizes == [40, 30]
    assert found.silhouette > 0.5 and found.stability > 0.95
    assert math.exp(found.centres[0]["log_lifetime"]) == pytest.approx(10, rel=0.1)
    assert math.exp(found.centres[1]["log_density"]) == pytest.approx(0.3, rel=0.1)
    assert found.centres[0]["autocorrelation_1"] > found.centres[1]["autocorrelation_1"] + 0.2


def test_clusters_of_noise_are_unstable_and_some_latents_or_properties_may_lack_numbers() -> None:
    rng = np.random.default_rng(0)
    noise = {name: rng.standard_normal(300) for name in "abcd"}
    found = clusters(noise)
    assert found.silhouette < 0.25 and found.stability < 0.7
    split = noise | {"a": np.where(np.arange(300) < 100, 20.0, 0.0) + noise["a"]}
    split["b"] = split["b"].copy()
    split["b"][:5] = np.nan
    found = clusters(split | {"none": np.full(300, np.nan), "same": np.ones(300)})
    assert found.sizes == [200, 95] and found.stability == 1
    assert set(found.centres[0]) == {*"abcd", "same"}
    assert clusters({name: values[:49] for name, values in noise.items()}).sizes == []
