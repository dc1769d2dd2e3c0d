"""Which rows an evaluation uses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.batches import Batches
from stages.evaluate.config import EvaluateConfig
from store.problem import Problem


@given(n=st.integers(2, 500), batch=st.integers(1, 40), share=st.floats(0.01, 0.99))
def test_batches_are_disjoint_equal_and_nearly_complete(n: int, batch: int, share: float) -> None:
    rows = np.arange(1000, 1000 + n)
    divided = Batches.divide(rows, EvaluateConfig(batch, share))
    used = np.concatenate([*divided.reconstruction, *divided.variance])
    assert len(set(used)) == len(used)
    assert set(used) <= set(rows)
    assert len(rows) - len(used) < divided.batch_rows
    assert {len(b) for b in [*divided.reconstruction, *divided.variance]} == {divided.batch_rows}
    assert divided.batch_rows == min(batch, n // 2)


def test_the_share_decides_and_the_order_is_fixed_but_shuffled() -> None:
    first, second = (Batches.divide(np.arange(800), EvaluateConfig(16, 0.1)) for _ in range(2))
    assert (len(first.reconstruction), len(first.variance)) == (5, 45)
    assert all(np.array_equal(a, b) for a, b in zip(first.variance, second.variance, strict=True))
    assert np.concatenate(first.reconstruction).max() > 400  # not one end of the corpus


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_heldout_rows_are_refused(rows: int) -> None:
    with pytest.raises(Problem, match="too few heldout rows"):
        Batches.divide(np.arange(rows), EvaluateConfig())


@pytest.mark.parametrize("wrong", [{"batch_rows": 0}, {"reconstruction_share": 0.0}, {"reconstruction_share": 1.0}])
def test_impossible_values_are_a_usage_problem(wrong: dict) -> None:
    with pytest.raises(Problem) as caught:
        EvaluateConfig(**wrong)
    assert caught.value.exit_status == 2
    assert next(iter(wrong)) in str(caught.value)
