"""Standard errors against closed forms and simulation."""

from __future__ import annotations

import math

import pytest
import torch

from stages.evaluate.standard_error import GroupedRatio, jackknife_standard_error, ratio_standard_error


def test_equal_rows_give_the_textbook_error_of_a_mean() -> None:
    means = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    error = ratio_standard_error(means * 10, torch.full((4,), 10.0, dtype=torch.float64))
    assert error == pytest.approx(float(means.std()) / 2)


def test_it_covers_the_spread_over_samples_of_dependent_tokens() -> None:
    """Tokens of a row share an offset: taking tokens as independent would be 4 times too small."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(8, 24, (400, 60), generator=generator).double()
    offsets = torch.randn(400, 60, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, 60, generator=generator, dtype=torch.float64) * counts.sqrt() * 0.2
    sums = counts * offsets + noise
    estimates = sums.sum(1) / counts.sum(1)
    errors = torch.tensor([ratio_standard_error(s, c) for s, c in zip(sums, counts, strict=True)])
    assert float(errors.mean()) == pytest.approx(float(estimates.std()), rel=0.1)


def test_one_row_or_nothing_to_divide_by_has_no_error() -> None:
    assert math.isnan(ratio_standard_error(torch.ones(1), torch.ones(1)))
    assert math.isnan(ratio_standard_error(torch.ones(3), torch.zeros(3)))


def grouped(numerators: list[float], denominators: list[float]) -> GroupedRatio:
    """One group a number, each added in two parts."""
    ratio = GroupedRatio()
    for numerator, denominator in zip(numerators, denominators, strict=True):
        ratio.add(0.25 * numerator, 0.75 * denominator)
        ratio.add(0.75 * numerator, 0.25 * denominator)
        ratio.end_group()
    return ratio


def test_a_ratio_of_sums_without_each_group_in_turn() -> None:
    ratio = grouped([1.0, 4.0, 2.0], [2.0, 5.0, 6.0])
    assert ratio.value == pytest.approx(7 / 13)
    assert ratio.standard_error == pytest.approx(jackknife_standard_error([6 / 11, 3 / 8, 5 / 7]))
    means = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    assert grouped(means.tolist(), [1.0] * 4).standard_error == pytest.approx(float(means.std()) / 2)


def test_without_other_groups_or_anything_a_ratio_has_no_error() -> None:
    assert math.isnan(grouped([1.0], [2.0]).standard_error)
    assert math.isnan(grouped([1.0, 0.0], [2.0, 0.0]).standard_error)
    assert math.isnan(GroupedRatio().value)
