"""Patterns of activation against literal definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from stages.evaluate.standard_error import standard_error
from stages.evaluate.temporal import consistency, lifetimes, positions, transitions
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.lifetimes import GROUPS, integrated_time
from stages.evaluate.temporal.positions import BandSums
from stages.evaluate.temporal.segments import Segments
from stages.evaluate.temporal.transitions import Turnover
from tests.evaluate.temporal import patterns_literal as literal
from tests.evaluate.temporal.pattern_sample import CPU, D, Sample, measure_of
from tests.evaluate.temporal.temporal_literal import kept
from tests.evaluate.temporal.test_measure import codes

LEAST = 12


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(consistency, "MIN_PAIRS", LEAST)
    monkeypatch.setattr(positions, "MIN_ROWS", LEAST)
    monkeypatch.setattr(transitions, "MIN_BOUNDARIES", LEAST)


@pytest.fixture(params=[(24, 5), (40, 13)], ids=["short rows", "long rows"], scope="module")
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(*request.param)


def test_lifetimes(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetimes, "HORIZON", 9)
    found = measure_of(sample.h, sample.documents).patterns.lifetime
    assert found is not None
    expected = [literal.kaplan_meier(literal.runs(sample.a, sample.documents, i), 9) for i in range(D)]
    ratios = literal.lifetime_ratio(sample.a, sample.documents, 9)
    assert len({round(value, 3) for value in expected}) == D
    by_density = np.argsort(kept(sample.a, sample.documents).mean(0), kind="stable")
    assert [decile["tokens"] for decile in found.deciles] == pytest.approx(np.array(expected)[by_density].tolist())
    assert [decile["ratio"] for decile in found.deciles] == pytest.approx(ratios[by_density].tolist())
    assert found.tokens == pytest.approx(sorted(expected)[(D - 1) // 2])
    assert found.ratio == pytest.approx(sorted(ratios)[(D - 1) // 2])
    error = sample.jackknife(lambda a, documents: sorted(literal.lifetime_ratio(a, documents, 9))[(D - 1) // 2], GROUPS)
    assert standard_error(found.replicates["lifetime_ratio"]) == pytest.approx(error)


def test_integrated_time_is_cut_at_the_first_lag_that_is_not_positive(sample: Sample) -> None:
    found = measure_of(sample.h, sample.documents).patterns
    lags = [lag for lag in range(1, 10) if len(literal.gather(sample.h, sample.documents, lag)[0]) >= LEAST]
    times = []
    for latent in range(D):
        correlation = [literal.autocorrelation(sample.exact, sample.documents, lag, latent) for lag in lags]
        assert min(correlation) < 0
        times.append(literal.integrated_time(correlation))
    assert found.integrated_time == pytest.approx(sorted(times)[(D - 1) // 2], rel=1e-4)
    known = torch.tensor([[0.5, torch.nan, 0.9], [0.25, torch.nan, torch.nan], [-0.1, torch.nan, 0.9], [0.9, 0.9, 0.9]])
    assert integrated_time(known)[[0, 2]].tolist() == pytest.approx([2.5, 2.8])
    assert integrated_time(known)[1].isnan()


def test_transitions(sample: Sample) -> None:
    found = measure_of(sample.h, sample.documents, sample.ends).patterns.transitions
    assert found is not None
    expected = {
        kind: literal.turnover(sample.a, sample.documents, sample.ends, kind)[0]
        for kind in ("all", "interior", "sentence", "document")
    }
    assert len(set(expected.values())) == 4
    assert found.turnover == pytest.approx(expected["all"])
    assert found.turnover_interior == pytest.approx(expected["interior"])
    assert found.turnover_sentence_boundary == pytest.approx(expected["sentence"])
    assert found.turnover_document_boundary == pytest.approx(expected["document"])
    assert found.response_sentence == pytest.approx(expected["sentence"] / expected["interior"])
    assert found.response_document == pytest.approx(expected["document"] / expected["interior"])
    first, second = literal.gather(sample.a, sample.documents, 1)
    columns = [(first[:, i], second[:, i]) for i in range(D)]
    on = sorted(y[x == 0].mean() for x, y in columns if (x == 0).any())
    stay = sorted(y[x == 1].mean() for x, y in columns)
    assert found.on == pytest.approx(on[(len(on) - 1) // 2])
    assert found.stay == pytest.approx(stay[(D - 1) // 2])


def test_without_a_tokenizer_nothing_is_known_of_sentences(sample: Sample) -> None:
    found = measure_of(sample.h, sample.documents).document()["patterns"]["transitions"]
    assert found["turnover_sentence_boundary"] is found["response_sentence"] is None
    assert found["turnover_interior"] == found["turnover"] > 0


def test_few_boundaries_have_no_turnover(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [np.zeros_like(end) for end in sample.ends]
    ends[0][0] = True
    segments = Segments(sample.documents[0], CPU, ends[0])
    few = int(segments.sentence_boundary.sum())
    for least, known in ((few, True), (few + 1, False)):
        monkeypatch.setattr(transitions, "MIN_BOUNDARIES", least)
        found = measure_of(sample.h, sample.documents, ends).patterns.transitions
        assert math.isfinite(found.turnover_sentence_boundary) == known == math.isfinite(found.response_sentence)
        assert found.turnover_document_boundary > 0


def test_response_of_latents_to_boundaries(sample: Sample) -> None:
    turnover = Turnover(D, CPU)
    for a, document, ends in zip(sample.a, sample.documents, sample.ends, strict=True):
        segments = Segments(document, CPU, ends)
        turnover.add(Firings(segments.kept(torch.as_tensor(a)) > 0), segments)
    counts = {
        kind: literal.turnover(sample.a, sample.documents, sample.ends, kind)[1]
        for kind in ("all", "interior", "sentence", "document")
    }
    pairs = {"interior": 0, "boundary": 0}
    for document, ends in zip(sample.documents, sample.ends, strict=True):
        for row, names in enumerate(document):
            at = np.flatnonzero(names >= 0)
            for t, later in pairwise(at):
                inside = names[t] == names[later] and not ends[row, t]
                pairs["interior" if inside else "boundary"] += 1
    expected = counts["interior"] / pairs["interior"] * pairs["boundary"]
    at_boundaries = counts["sentence"] + counts["document"]
    found = turnover.response(torch.as_tensor(counts["all"]).double())
    np.testing.assert_allclose(found, np.log((at_boundaries + 0.5) / (expected + 0.5)))


def test_positions(sample: Sample) -> None:
    found = measure_of(sample.h, sample.documents).patterns.position
    context = sample.documents[0].shape[1]
    assert found.bands == [[i * context // 4, (i + 1) * context // 4] for i in range(4)]
    for lag, row in found.autocorrelation.items():
        expected = [literal.banded(sample.exact, sample.documents, int(lag), band, LEAST) for band in found.bands]
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
    assert math.isnan(found.autocorrelation["16"][0]) and not math.isnan(found.autocorrelation["4"][3])
    for i, p in enumerate(found.places):
        for j, q in enumerate(found.places[:i]):
            expected = literal.across_positions(sample.exact, sample.documents, q, p, LEAST)
            assert found.correlation[i][j] == found.correlation[j][i] or math.isnan(expected)
            assert found.correlation[i][j] == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)
    apart = np.array(found.correlation)[~np.eye(len(found.places), dtype=bool)]
    assert np.isfinite(apart).any()
    assert found.correlation_mean == pytest.approx(np.nanmean(apart))
    assert found.slope == pytest.approx(literal.slope(sample.exact, sample.documents), rel=1e-4)


def test_bands_average_to_the_autocorrelation(sample: Sample) -> None:
    measure = measure_of(sample.h, sample.documents)
    bands = BandSums(sample.documents[0].shape[1], D, CPU)
    for document in sample.documents:
        segments = Segments(document, CPU)
        bands.add(torch.zeros(len(segments.before), D), segments)
    pairs = bands.pairs[0].numpy()
    banded = np.array(measure.patterns.position.autocorrelation["1"])
    assert (pairs >= LEAST).all()
    assert measure.autocorrelation[0] == pytest.approx((banded * pairs).sum() / pairs.sum(), rel=1e-4)


def test_batches_cut_differently_and_special_positions_change_nothing(sample: Sample) -> None:
    whole = measure_of(sample.h, sample.documents, sample.ends).patterns
    cut = [np.concatenate(arrays) for arrays in (sample.h, sample.documents, sample.ends)]
    cut[0] = np.where(cut[1][..., None] >= 0, cut[0], np.nan)
    again = measure_of(*(np.array_split(array, 7) for array in cut)).patterns
    assert again.scalars == pytest.approx(whole.scalars, rel=1e-5, abs=1e-6)
    assert again.position.autocorrelation["1"] == pytest.approx(whole.position.autocorrelation["1"], rel=1e-5)
    assert [edge.count for edge in again.lift.top] == [edge.count for edge in whole.lift.top]


def test_an_undersized_sample_has_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "MIN_PAIRS", 1000)
    monkeypatch.setattr(positions, "MIN_ROWS", 100)
    found = measure_of([codes((4, 32, 3), 0)], [np.zeros((4, 32), dtype=np.int32)])
    assert all(math.isnan(value) for value in found.patterns.scalars.values())
    assert {"lifetime_ratio", "turnover", "effective_rank", "position_slope"} < set(found.patterns.scalars)
    assert found.patterns.lift is None
    assert found.document()["patterns"]["clusters"]["silhouette"] is None


def test_activations_have_positions_and_redundancy_alone(sample: Sample) -> None:
    centred = [h - 0.5 for h in sample.h]
    found = measure_of(centred, sample.documents, fires=False).patterns
    exact = [h.astype(np.float64) for h in centred]
    assert found.lifetime is found.transitions is found.lift is found.clusters is None
    assert found.redundancy.effective_rank == pytest.approx(
        literal.redundancy(kept(exact, sample.documents))[1], rel=1e-3
    )
    expected = literal.banded(exact, sample.documents, 1, (0, sample.documents[0].shape[1]), LEAST)
    assert np.mean(found.position.autocorrelation["1"]) == pytest.approx(expected, abs=0.05)
    assert found.position.slope == pytest.approx(literal.slope(exact, sample.documents), rel=1e-3)
