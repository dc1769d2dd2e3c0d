"""Temporal metrics against literal definitions and against processes with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.evaluate.temporal import consistency
from stages.evaluate.temporal.consistency import Lags
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.lagged import LaggedSums
from stages.evaluate.temporal.measure import Measure, Meter
from stages.evaluate.temporal.segments import Segments
from stages.evaluate.temporal.stability import FeatureStability
from store.pairs import pairs_by_lag, permutation_within_documents
from tests.evaluate.temporal import temporal_literal as literal

CPU = torch.device("cpu")
ONE_DOCUMENT_A_ROW = (64, 128)


def packed_documents(rows: int, context: int, seed: int) -> np.ndarray:
    """BOS before every document, several documents in most rows, padding at the end of some, an empty last row."""
    rng = np.random.default_rng(seed)
    document = np.full((rows, context), -1, dtype=np.int32)
    name = 0
    for row in range(rows - 1):
        end = context if row % 3 else context - int(rng.integers(1, context // 2))
        t = 1
        while t < end:
            length = int(rng.choice([1, 2, 3, 7, 8, 9, context // 2, context]))
            document[row, t : min(t + length, end)] = name
            t, name = t + length + 1, name + 1
    return document


def codes(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Sparse, sticky and positive; the last column almost always active with a mean that outweighs its spread."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    noise[:, 1:] += 0.8 * noise[:, :-1]
    found = np.maximum(noise - 0.7, 0)
    found[..., -1] = np.maximum(3 + 0.3 * noise[..., -1], 0)
    return found.astype(np.float32)


def meter_of(h: list[np.ndarray], x: list[np.ndarray], documents: list[np.ndarray], fires: bool = True) -> Measure:
    """Run a meter over batches."""
    lags = Lags.of(Segments(document, CPU) for document in documents)
    meter = Meter(lags, h[0].shape[-1], CPU, fires)
    for codes, inputs, document in zip(h, x, documents, strict=True):
        add(meter, codes, inputs, document, fires)
    return meter.finish()


def add(meter: Meter, h: np.ndarray, x: np.ndarray, document: np.ndarray, fires: bool = True) -> None:
    """Count a batch."""
    segments = Segments(document, CPU)
    tokens, codes = segments.kept(torch.as_tensor(x)), segments.kept(torch.as_tensor(h))
    active = codes > 0 if fires else torch.ones_like(codes, dtype=torch.bool)
    meter.add(codes, active, (tokens[1:] - tokens[:-1]).norm(dim=1), segments)


def measured(h: np.ndarray, document: np.ndarray | None = None, batch: int = 8) -> Measure:
    """The metrics of rows, in batches; without documents one a row, and no BOS."""
    document = np.arange(len(h))[:, None].repeat(h.shape[1], 1) if document is None else document
    cuts = range(batch, len(h), batch)
    h_batches = np.split(h.astype(np.float32), cuts)
    return meter_of(h_batches, h_batches, np.split(document, cuts))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "MIN_PAIRS", 12)


@pytest.mark.parametrize(("context", "n_batches"), [(24, 5), (40, 13)])
def test_everything_equals_the_literal_definitions(context: int, n_batches: int, few_pairs: None) -> None:
    documents = [packed_documents(4, context, seed) for seed in range(n_batches)]
    h = [codes((4, context, 6), seed) for seed in range(n_batches)]
    x = [np.random.default_rng(100 + i).standard_normal((4, context, 3)).astype(np.float32) for i in range(n_batches)]
    for i, document in enumerate(documents):  # what stands at BOS and padding reaches nothing
        h[i][document < 0] = 1e6
        x[i][document < 0] = np.nan
    found = meter_of(h, x, documents)
    expected = literal.measure(h, x, documents, 12)
    assert math.isnan(found.autocorrelation[-1])  # too few pairs
    assert not math.isnan(found.tcs["medium"])
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), name


def test_pairs_are_those_of_the_store_and_which_are_used_follows_from_documents(few_pairs: None) -> None:
    documents = [packed_documents(4, 40, seed) for seed in range(5)]
    lags = Lags.of(Segments(document, CPU) for document in documents)
    assert lags.pairs.tolist() == sum(pairs_by_lag(document) for document in documents).tolist()
    assert lags.pairs[1:].tolist() == literal.count_pairs(documents)
    assert lags.used("long") == [lag for lag in range(17, 40) if lags.pairs[lag] >= 12]
    assert 0 < len(lags.used("long")) < 23


def test_sums_are_exact_for_whole_numbers_at_every_lag() -> None:
    document = packed_documents(6, 33, 0)
    segments = Segments(document, CPU)
    h = np.random.default_rng(0).integers(-3, 4, (*document.shape, 5)).astype(np.float32)
    sums = LaggedSums(33, 5, CPU)
    for _ in range(2):
        sums.add(segments.kept(torch.as_tensor(h)), segments)
    for lag in range(33):
        first, second = literal.gather([h, h], [document, document], lag)
        np.testing.assert_array_equal(sums.heads[lag], first.sum(0))
        np.testing.assert_array_equal(sums.tails[lag], second.sum(0))
        np.testing.assert_array_equal(sums.squares[lag], (first**2 + second**2).sum(0))
        np.testing.assert_allclose(sums.products[lag], (first * second).sum(0), atol=1e-4)


def test_independent_tokens_score_nothing() -> None:
    h = np.maximum(np.random.default_rng(0).standard_normal((*ONE_DOCUMENT_A_ROW, 30)), 0)
    found = measured(h)
    for scale, score in (found.tcs | {f"binary {s}": v for s, v in found.tcs_binary.items()}).items():
        assert score == pytest.approx(0, abs=0.01), scale
    assert found.slowness == pytest.approx(2, abs=0.02)
    assert all(value == pytest.approx(0, abs=0.02) for value in found.persistence.values())


def test_what_is_constant_within_documents_scores_one() -> None:
    level = np.random.default_rng(0).random((64, 1, 30))
    found = measured((level * (level > 0.5)).repeat(128, 1))
    assert found.tcs == pytest.approx(dict.fromkeys(found.tcs, 1), abs=1e-4)
    assert found.tcs_binary == pytest.approx(dict.fromkeys(found.tcs, 1), abs=1e-4)
    assert found.fsm_support == found.fsm_magnitude == 1
    assert found.persistence == pytest.approx(dict.fromkeys(found.persistence, 1), abs=1e-4)
    assert found.slowness == pytest.approx(0, abs=1e-4)
    assert found.smoothness == 0


def test_codes_with_a_sign_change_by_their_size_at_most() -> None:
    """Of two equal codes nothing changes, of two opposite ones everything, of two that are 0 nothing."""
    segments = Segments(np.zeros((1, 5), np.int32), CPU)
    h, stability = torch.tensor([-1.0, -1.0, 1.0, 0.0, 0.0])[:, None], FeatureStability(CPU)
    stability.add(h, Firings(torch.ones_like(h, dtype=torch.bool)), segments)
    assert stability.change.value == (0 + 1 + 1 + 0) / 4


def test_documents_in_one_row_are_not_crossed() -> None:
    """Constant within documents, different between them: one crossed pair would show."""
    document = packed_documents(64, 128, 0)
    level = np.random.default_rng(1).random((document.max() + 2, 8)) + 1
    level[-1] = 1e4  # BOS and padding
    found = measured(level[document], document)
    assert found.tcs == pytest.approx(dict.fromkeys(found.tcs, 1), abs=1e-4)
    assert found.fsm_magnitude == 1
    assert found.smoothness == 0


def test_the_autocorrelation_of_an_autoregression_is_a_power() -> None:
    rng, phi = np.random.default_rng(0), 0.8
    h = rng.standard_normal((400, 128, 20))
    for t in range(1, 128):
        h[:, t] = phi * h[:, t - 1] + math.sqrt(1 - phi**2) * h[:, t]
    found = measured(h + 3)
    for lag in (1, 2, 4, 8, 16, 32):
        assert found.autocorrelation[lag - 1] == pytest.approx(phi**lag, abs=0.01), lag
    for scale, (first, last) in {"short": (1, 4), "medium": (5, 16)}.items():
        expected = np.mean([phi**lag for lag in range(first, last + 1)])
        assert found.tcs[scale] == pytest.approx(expected, abs=0.01)
    assert found.slowness == pytest.approx(2 * (1 - phi), abs=0.01)


def test_two_state_chains() -> None:
    """Persistence is lambda^D, and so is the phi coefficient, whose mean over lags is the binary TCS."""
    rng, on_to_on, off_to_on = np.random.default_rng(0), 0.9, 0.02
    eigenvalue, stationary = on_to_on - off_to_on, off_to_on / (1 - on_to_on + off_to_on)
    state = np.zeros((400, 128, 20))
    state[:, 0] = rng.random((400, 20)) < stationary
    for t in range(1, 128):
        state[:, t] = rng.random((400, 20)) < np.where(state[:, t - 1] == 1, on_to_on, off_to_on)
    found = measured(state * rng.random(state.shape))
    for lag, value in found.persistence.items():
        assert value == pytest.approx(eigenvalue ** int(lag), abs=0.015), lag
    assert found.tcs_binary["short"] == pytest.approx(np.mean([eigenvalue**k for k in range(1, 5)]), abs=0.015)
    assert found.tcs["short"] < found.tcs_binary["short"]  # magnitudes are drawn anew at every token
    single = measured(state[..., :1])
    union = 2 * stationary - stationary * on_to_on
    assert single.fsm_support == pytest.approx(stationary * on_to_on / union, abs=0.02)
    assert single.fsm_magnitude == 1


def test_an_order_lost_within_documents_is_seen() -> None:
    rng = np.random.default_rng(0)
    h = np.maximum(np.repeat(rng.standard_normal((64, 32, 10)), 4, axis=1), 0)
    document = np.arange(64)[:, None].repeat(128, 1)
    order = permutation_within_documents(document, rng)
    found, lost = measured(h), measured(np.take_along_axis(h, order[..., None], 1))
    assert found.tcs["short"] > 0.3 > 0.05 > lost.tcs["short"]
    assert found.fsm_support > lost.fsm_support
    assert found.smoothness == pytest.approx(lost.smoothness, rel=0.2)  # a maximum hardly knows order


def test_standard_errors_are_the_spread_over_samples() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        level = rng.standard_normal((60, 1, 4))
        found.append(measured(level + rng.standard_normal((60, 40, 4)), batch=4))
    spread = np.std([m.tcs["short"] for m in found], ddof=1)
    assert np.mean([m.errors["tcs_short"] for m in found]) == pytest.approx(spread, rel=0.3)


def test_without_latents_or_pairs_numbers_do_not_exist() -> None:
    empty = measured(np.zeros((64, 32, 0))).document()
    short = measured(codes((4, 32, 3), 0)).document()
    for found in (empty, short):
        assert set(found["tcs"].values()) == {None}
        errors = found["standard_errors"]
        assert {errors[name] for name in ("tcs_short", "slowness", "fsm_support", "turnover", "lifetime_ratio")} == {
            None
        }
        assert set(found["autocorrelation"]) == set(found["persistence"].values()) == {None}
        assert found["slowness"] is found["fsm_support"] is None
    assert empty["latents"] == 0
    constant = measured(np.ones((64, 128, 2))).document()
    assert constant["tcs"]["short"] is constant["slowness"] is None
    assert constant["fsm_support"] == 1


def test_activations_have_no_firings() -> None:
    h = codes((64, 32, 3), 0) - 5
    found = meter_of([h], [h], [np.zeros((64, 32), dtype=np.int32)], fires=False).document()
    assert found["tcs"]["short"] > 0.05
    assert found["smoothness"] > 0
    assert set(found["tcs_binary"].values()) == set(found["persistence"].values()) == {None}
    assert found["fsm_support"] is found["fsm_magnitude"] is None
    assert set(found["autocorrelation_firing_weighted"]) == {None}
    assert found["standard_errors"]["tcs_short"] is None  # one document
    assert "fsm_support" not in found["standard_errors"]
