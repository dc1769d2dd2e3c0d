"""Replicates of temporal metrics against repeated documents, and the intervals that follow."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from stages.evaluate.bootstrap import REPLICATES
from stages.evaluate.standard_error import half_width, standard_error
from stages.evaluate.temporal import consistency, transitions
from stages.evaluate.temporal.consistency import Lags
from stages.evaluate.temporal.measure import Meter
from stages.evaluate.temporal.segments import Segments
from tests.evaluate.temporal import patterns_literal, temporal_literal
from tests.evaluate.temporal.pattern_sample import Sample, measure_of
from tests.evaluate.temporal.repeated import repeated
from tests.evaluate.temporal.test_measure import CPU, add, codes, meter_of

SOME = (0, 1, 77, REPLICATES - 1)
"""Replicates that the slow computation repeats."""
LEAST = 12


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(consistency, "MIN_PAIRS", LEAST)
    monkeypatch.setattr(transitions, "MIN_BOUNDARIES", LEAST)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return Sample(24, 5)


@pytest.mark.parametrize("replicate", SOME)
def test_ratios_are_those_of_repeated_documents(sample: Sample, replicate: int) -> None:
    found = measure_of(sample.h, sample.documents, sample.ends).replicates
    everything = [sample.exact, sample.a, sample.ends]
    (h, a, ends), documents = repeated(everything, sample.documents, replicate, followed=True)
    expected = {
        "fsm_support": temporal_literal.support(a, documents),
        "fsm_magnitude": temporal_literal.magnitude(h, documents),
        "smoothness": temporal_literal.smoothness(h, steps_of_1(h), documents),
        "turnover": patterns_literal.turnover(a, documents, ends, "all")[0],
        "turnover_sentence_boundary": patterns_literal.turnover(a, documents, ends, "sentence")[0],
        "turnover_document_boundary": patterns_literal.turnover(a, documents, ends, "document")[0],
    }
    for name, value in expected.items():
        assert found[name][replicate] == pytest.approx(value, rel=1e-6), name


def steps_of_1(h: list[np.ndarray]) -> list[np.ndarray]:
    """Inputs whose distances are those that `measure_of` says."""
    return [np.broadcast_to(np.arange(each.shape[1], dtype=float)[:, None], (*each.shape[:2], 1)) for each in h]


def documents_of(lengths: np.ndarray, context: int, first: int = 0) -> np.ndarray:
    """One a row, from its first token."""
    numbers = first + np.arange(len(lengths))
    return np.where(np.arange(context) < lengths[:, None], numbers[:, None], -1).astype(np.int32)


def sticky(shape: tuple[int, ...], phi: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary autoregressions of variance 1, each [rows, context, d] from its own start."""
    h = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        h[:, t] = phi * h[:, t - 1] + math.sqrt(1 - phi**2) * h[:, t]
    return h.astype(np.float32)


def replicates_and_exact(
    h: np.ndarray, document: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, float]]:
    """TCS of some replicates by scale, as measured and of repeated documents, and the standard errors."""
    h[document < 0] = 1e4
    used = temporal_literal.lags_used([document], LEAST) | {"adjacent": [1]}
    measure = meter_of([h.astype(np.float32)], [np.zeros_like(h)], [document])
    names = [f"tcs_{scale}" for scale in used if used[scale] and scale != "adjacent"] + ["slowness"]
    expected: dict[str, list[float]] = {name: [] for name in names}
    for replicate in SOME:
        (again,), documents = repeated([[h.astype(np.float32).astype(np.float64)]], [document], replicate)
        scores = temporal_literal.tcs(again, documents, used)
        scores = {f"tcs_{scale}": score for scale, score in scores.items()} | {"slowness": 2 - 2 * scores["adjacent"]}
        for name in names:
            expected[name].append(scores[name])
    found = {name: measure.replicates[name][list(SOME)] for name in names}
    return found, {name: np.array(values) for name, values in expected.items()}, measure.errors


def rectified(document: np.ndarray, d: int = 3) -> np.ndarray:
    """Sticky codes with a level of each document's own."""
    rng = np.random.default_rng(0)
    return np.maximum(sticky((*document.shape, d), 0.7, rng) + rng.standard_normal((len(document), 1, d)), 0)


def test_tcs_is_that_of_repeated_documents_of_one_length() -> None:
    document = documents_of(np.full(40, 18), 18)
    found, expected, _ = replicates_and_exact(rectified(document), document)
    assert set(found) == {"tcs_short", "tcs_medium", "tcs_long", "slowness"}
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=5e-6), name


def test_tcs_is_that_of_repeated_documents_of_many_lengths_to_first_order() -> None:
    """From replicate to replicate the mix of lags in a scale differs. What that leaves is below 5 % of an error."""
    document = documents_of(np.random.default_rng(1).integers(4, 22, 60), 22)
    found, expected, errors = replicates_and_exact(rectified(document), document)
    assert found["slowness"] == pytest.approx(expected["slowness"], abs=5e-6)  # of one lag, and so exact
    for name in ("tcs_short", "tcs_medium"):
        assert found[name] == pytest.approx(expected[name], abs=0.05 * errors[name]), name
        assert np.ptp(expected[name]) > 0.5 * errors[name]


def test_a_column_that_fires_in_two_documents_alone_costs_no_more() -> None:
    """Replicates have one of them, several times or not at all: it is left out where it never fires."""
    document = documents_of(np.random.default_rng(1).integers(4, 22, 60), 22)
    h = rectified(document)
    h[np.arange(60) % 30 != 3, :, 0] = 0
    found, expected, errors = replicates_and_exact(h, document)
    for name in ("tcs_short", "tcs_medium"):
        assert found[name] == pytest.approx(expected[name], abs=0.05 * errors[name]), name


@pytest.mark.parametrize("paired", [False, True], ids=["a number", "a difference"])
def test_95_percent_intervals_cover_about_95_percent(paired: bool) -> None:
    """Of autoregressions with known TCS; the two of a difference share three quarters of their variance."""
    phi, draws, covered = 0.6, 100, dict.fromkeys(("tcs_short", "slowness"), 0)
    truth = {"tcs_short": np.mean([phi**lag for lag in range(1, 5)]), "slowness": 2 * (1 - phi)}
    rng = np.random.default_rng(0)
    for draw in range(draws):
        document = documents_of(rng.integers(5, 25, 80), 25, first=100 * draw)
        shared, *own = (sticky((*document.shape, 2), phi, rng) for _ in range(3))
        signals = [math.sqrt(0.75) * shared + 0.5 * each for each in own][: 1 + paired]
        measures = [meter_of([h], [h], [document], fires=False) for h in signals]
        for name in covered:
            first, *second = [measure.scalars[name] for measure in measures]
            replicates, *others = [measure.replicates[name] for measure in measures]
            away = first - (second[0] if paired else truth[name])
            error = standard_error(replicates - others[0] if paired else replicates)
            covered[name] += abs(away) < half_width(error, degrees=REPLICATES - 1)
    assert all(88 <= count <= 99 for count in covered.values()), covered


def test_memory_does_not_grow_with_tokens() -> None:
    document = documents_of(np.full(20, 24), 24)
    lags = Lags.of(Segments(document, CPU) for _ in range(5))
    meter, sizes = Meter(lags, 6, CPU, fires=True), []
    for batch in range(5):
        h = codes((20, 24, 6), batch)
        add(meter, h, h, document + 20 * batch)
        sizes.append(len(pickle.dumps(meter)))
    assert len(set(sizes)) == 1
    assert {len(values) for values in meter.finish().replicates.values()} == {REPLICATES, 10}
