"""The bootstrap over documents against documents that really are repeated, and what differences make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.evaluate.bootstrap import REPLICATES, Draws, Ratio, drawn
from stages.evaluate.standard_error import half_width, jackknife, standard_error

CPU = torch.device("cpu")


def test_draws_follow_from_the_number_of_a_document_alone() -> None:
    weights = drawn(np.arange(2000))
    assert weights.shape == (REPLICATES, 2000)
    np.testing.assert_array_equal(drawn(np.array([7, 1999, 7])), weights[:, [7, 1999, 7]])
    assert weights.mean() == pytest.approx(1, abs=0.01) and weights.var() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(weights[:, :100].T)[np.triu_indices(100, 1)]).max() < 0.35


def ratio_of(numerator: np.ndarray, denominator: np.ndarray, document: np.ndarray, batch: int) -> Ratio:
    """Of tokens, in batches that cut documents."""
    ratio = Ratio(CPU)
    for start in range(0, len(document), batch):
        draws = Draws.of(document[start : start + batch], CPU)
        both = (torch.as_tensor(each[start : start + batch]) for each in (numerator, denominator))
        ratio.add(*(draws.by_run(each) for each in both), draws)
    return ratio


def test_a_ratio_is_that_of_repeated_documents() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat([3, 9, 4, 9, 20, 0], [5, 8, 1, 3, 6, 2])  # one comes twice
    numerator, denominator = rng.random(len(document)), 1 + rng.random(len(document))
    ratio = ratio_of(numerator, denominator, document, 7)
    assert ratio.value == pytest.approx(numerator.sum() / denominator.sum(), rel=1e-14)
    for replicate, found in enumerate(ratio.replicates):
        times = np.array([drawn(np.array([each]))[replicate, 0] for each in document])
        with np.errstate(invalid="ignore"):
            expected = np.repeat(numerator, times).sum() / np.repeat(denominator, times).sum()
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_the_error_of_a_mean_over_documents_is_the_textbook_one_and_tokens_add_nothing() -> None:
    rng = np.random.default_rng(1)
    value, document = rng.standard_normal(400), np.arange(400)
    once = ratio_of(value, np.ones(400), document, 64)
    often = ratio_of(np.repeat(value, 9), np.ones(3600), np.repeat(document, 9), 64)
    assert standard_error(once.replicates) == pytest.approx(value.std(ddof=1) / 20, rel=0.15)
    assert standard_error(often.replicates) == pytest.approx(standard_error(once.replicates), rel=1e-9)


def test_what_two_runs_owe_to_the_documents_cancels_in_their_difference() -> None:
    rng = np.random.default_rng(2)
    document, shared = np.arange(300), 10 * rng.standard_normal(300)
    runs = [shared + rng.standard_normal(300) for _ in range(2)]
    first, second = (ratio_of(run, np.ones(300), document, 50).replicates for run in runs)
    expected = (runs[0] - runs[1]).std(ddof=1) / math.sqrt(300)
    assert standard_error(first - second) == pytest.approx(expected, rel=0.15)
    assert math.hypot(standard_error(first), standard_error(second)) > 8 * expected
    assert standard_error(first - ratio_of(runs[0], np.ones(300), document, 50).replicates) == 0


def test_too_few_documents_or_nothing_to_divide_by_have_no_error() -> None:
    one = ratio_of(np.ones(9), np.ones(9), np.zeros(9, dtype=int), 9)
    assert one.value == 1 and math.isnan(standard_error(one.replicates))  # some replicates do not draw it
    assert math.isnan(Ratio(CPU).value) and math.isnan(standard_error(Ratio(CPU).replicates))


def test_replicates_of_the_jackknife_have_its_error_also_in_differences() -> None:
    first, second = np.random.default_rng(3).random((2, 7))
    for left_out in (first, second, first - second):
        expected = math.sqrt(6 / 7 * np.square(left_out - left_out.mean()).sum())
        assert standard_error(jackknife(5.0, left_out.tolist())) == pytest.approx(expected)
    difference = jackknife(5.0, first.tolist()) - jackknife(3.0, second.tolist())
    assert difference.mean() == pytest.approx(2)
    np.testing.assert_allclose(difference, jackknife(2.0, (first - second).tolist()))
    assert math.isnan(standard_error(jackknife(5.0, [5.0]))) and math.isnan(standard_error(jackknife(5.0, [])))


def test_few_replicates_widen_an_interval() -> None:
    assert half_width(1.0) == pytest.approx(1.959964, abs=1e-6)
    assert half_width(1.0, degrees=REPLICATES - 1) == pytest.approx(1.971957, abs=1e-6)
    assert half_width(1.0, degrees=9) == pytest.approx(2.262157, abs=1e-6)  # Student's table
