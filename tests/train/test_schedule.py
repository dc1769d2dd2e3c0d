from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.train.schedule import LearningRate, Ramp


def test_warm_up_plateau_and_decay() -> None:
    rate = LearningRate(1e-3, Ramp(10), 0.2, 100)
    assert rate.at(0) == pytest.approx(1e-4)
    assert rate.at(9) == rate.at(80) == 1e-3
    assert rate.at(90) == pytest.approx(0.5e-3)
    assert rate.at(99) == pytest.approx(0.05e-3)


@given(st.integers(0, 50), st.floats(0, 0.9), st.integers(1, 200))
def test_learning_rate_is_positive_and_never_above_its_peak(warmup: int, decay: float, steps: int) -> None:
    rate = LearningRate(2.0, Ramp(warmup), decay, steps)
    assert all(0 < rate.at(step) <= 2.0 for step in range(steps))


def test_no_warm_up_is_a_constant() -> None:
    assert Ramp(0).at(0) == 1.0
