"""Batches are a pure function of seed and step, and an epoch shows every sequence at most once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import store
from store import ActivationStore
from store.pairs import pairs_by_lag
from store.problem import Problem
from tests.store.make import CONTEXT, make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make(tmp_path_factory.mktemp("windows") / "store")


@given(batch_rows=st.integers(1, 34), seed=st.integers(0, 2**32), step=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_depends_on_seed_and_step_alone(shared: ActivationStore, batch_rows: int, seed: int, step: int) -> None:
    windows = shared.windows(3, batch_rows=batch_rows, seed=seed)
    windows.batch(step // 2)
    batch, again = windows.batch(step), shared.windows(3, batch_rows=batch_rows, seed=seed).batch(step)
    assert np.array_equal(batch.rows, again.rows) and torch.equal(batch.x, again.x)
    assert np.array_equal(batch.document.numpy(), shared.document(batch.rows))
    assert np.array_equal(batch.tokens.numpy(), shared.tokens(batch.rows))
    assert torch.equal(batch.x, torch.stack([shared.window(3, row) for row in batch.rows]))


@given(batch_rows=st.integers(1, 34), seed=st.integers(0, 99), epoch=st.integers(0, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_epoch_draws_without_replacement(shared: ActivationStore, batch_rows: int, seed: int, epoch: int) -> None:
    windows = shared.windows(11, batch_rows=batch_rows, seed=seed)
    per_epoch = windows.batches_per_epoch
    assert per_epoch == windows.n_rows // batch_rows
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    rows = np.concatenate([windows.batch(step).rows for step in steps])
    assert len(set(rows.tolist())) == len(rows) == per_epoch * batch_rows
    assert set(rows.tolist()) <= set(shared.rows("train").tolist())


def test_epochs_and_seeds_differ(shared: ActivationStore) -> None:
    windows = shared.windows(3, batch_rows=30)
    assert windows.batches_per_epoch == 1
    orders = {tuple(windows.batch(epoch).rows) for epoch in range(5)}
    orders |= {tuple(shared.windows(3, batch_rows=30, seed=seed).batch(0).rows) for seed in range(1, 5)}
    assert len(orders) == 9


def test_the_heldout_split_is_its_own(shared: ActivationStore) -> None:
    rows = shared.windows(3, "heldout", batch_rows=8).batch(3).rows
    assert set(rows.tolist()) == set(shared.rows("heldout").tolist())


def test_batches_do_not_share_memory(shared: ActivationStore) -> None:
    windows = shared.windows(3, batch_rows=4)
    first = windows.batch(0)
    kept = first.x.clone()
    windows.batch(1)
    assert torch.equal(first.x, kept)


def test_a_batch_can_be_read_into_memory_that_is_there(shared: ActivationStore) -> None:
    windows = shared.windows(3, batch_rows=4)
    first = windows.batch(0)
    out = torch.empty_like(first.x)
    assert windows.batch(0, out).x is out and torch.equal(out, first.x)


@given(batch_rows=st.integers(1, 8), step=st.integers(0, 99), split=st.sampled_from(["train", "heldout"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ragged_windows_equal_the_slow_loop(shared: ActivationStore, batch_rows: int, step: int, split: str) -> None:
    batch = shared.windows(11, split, batch_rows=batch_rows).batch(step)
    ragged = batch.split()
    expected = []
    for b, row in enumerate(batch.rows.tolist()):
        start = 0
        for p in range(1, CONTEXT + 1):
            if p == CONTEXT or batch.document[b, p] != batch.document[b, start]:
                if batch.document[b, start] >= 0:
                    expected.append((row, start, int(batch.document[b, start]), batch.x[b, start:p]))
                start = p
    assert ragged.rows.tolist() == [row for row, _, _, _ in expected]
    assert ragged.start.tolist() == [start for _, start, _, _ in expected]
    assert ragged.document.tolist() == [document for _, _, document, _ in expected]
    assert all(torch.equal(ours, x) for ours, (_, _, _, x) in zip(ragged.windows(), expected, strict=True))
    assert torch.equal(ragged.tokens, batch.tokens[batch.document >= 0])


def test_a_ragged_window_is_a_view(shared: ActivationStore) -> None:
    ragged = shared.windows(3, batch_rows=4).batch(0).split()
    assert [window.data_ptr() for window in ragged.windows()] == [
        ragged.x[start].data_ptr() for start in ragged.offsets[:-1].tolist()
    ]


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 3), (1, 7)])
def test_pairs_equal_the_slow_loop(shared: ActivationStore, first: int, last: int) -> None:
    batch = shared.windows(3, batch_rows=8).batch(2)
    mask = batch.pair_mask(first, last)
    for b, document in enumerate(batch.document.tolist()):
        for t in range(CONTEXT):
            for s in range(CONTEXT):
                expected = first <= t - s <= last and document[t] == document[s] >= 0
                assert bool(mask[b, t, s]) == expected
    counts = pairs_by_lag(batch.document.numpy())
    assert int(mask.sum()) == counts[first : last + 1].sum() > 0


def test_a_split_smaller_than_a_batch_is_answered(tmp_path: Path, shared: ActivationStore) -> None:
    with pytest.raises(Problem, match="at least 9 sequences") as problem:
        shared.windows(3, "heldout", batch_rows=9)
    assert "8 sequences of 8 tokens" in str(problem.value)
    only_train = make(tmp_path / "store", n_rows=4)
    with pytest.raises(Problem, match="heldout split"):
        only_train.windows(3, "heldout", batch_rows=1)
    with pytest.raises(Problem, match="batch_rows"):
        shared.windows(3, batch_rows=0)


def test_a_negative_step_is_refused(shared: ActivationStore) -> None:
    with pytest.raises(IndexError):
        store.open(shared.path).windows(3).batch(-1)
