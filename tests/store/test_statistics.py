"""Statistics against a slow loop in float64, and the same bytes however the work is scheduled."""

from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import store
from store import ActivationStore, StoreWriter
from store.problem import Problem
from store.statistics import Moments, compute_statistics, merge
from tests.store.make import CARD_FACTS, CONTEXT, LAYERS, make, spec, text, write_sequences
from tests.store.make import activations as stored


def slow_statistics(layer: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Token by token: mean, variance, mean norm by position, count."""
    tokens: list[np.ndarray] = []
    norms: list[list[float]] = [[] for _ in range(CONTEXT)]
    for row, (split, _, document) in enumerate(text()):
        x = stored(layer, row, dtype)
        for position in range(CONTEXT):
            if split == "train" and document[0, position] >= 0:
                vector = x[position]
                if dtype == "bfloat16":
                    vector = (vector.astype(np.uint32) << 16).view(np.float32)
                tokens.append(vector.astype(np.float64))
                norms[position].append(float(np.sqrt((tokens[-1] ** 2).sum())))
    mean = sum(tokens) / len(tokens)
    variance = sum((x - mean) ** 2 for x in tokens) / len(tokens)
    return mean, variance, np.array([np.mean(n) if n else np.nan for n in norms]), len(tokens)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("layer", LAYERS)
def test_statistics_equal_the_slow_loop(tmp_path: Path, dtype: str, layer: int) -> None:
    statistics = make(tmp_path / "store", dtype).statistics(layer)
    mean, variance, norms, count = slow_statistics(layer, dtype)
    assert statistics.count == count
    np.testing.assert_allclose(statistics.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(statistics.variance, variance, rtol=1e-12)
    np.testing.assert_allclose(statistics.norm_by_position, norms, rtol=1e-12)
    assert np.isnan(statistics.norm_by_position[0])  # BOS is not kept
    assert statistics.scale == pytest.approx(np.sqrt(variance.sum()), rel=1e-12)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_the_schedule_does_not_show_in_the_bits(activations: ActivationStore, scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler):
        again = compute_statistics(activations.path, activations.manifest.layout, activations.layers)
    for layer in LAYERS:
        for name in ("mean", "variance", "norm_by_position"):
            assert getattr(again[layer], name).tobytes() == getattr(activations.statistics(layer), name).tobytes()


def moments(x: np.ndarray) -> Moments:
    mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
    return Moments(len(x), mean, ((x - mean) ** 2).sum(axis=0), np.zeros(1), np.zeros(1))


@given(n=st.integers(0, 20), m=st.integers(0, 20), offset=st.floats(-1e4, 1e4))
def test_merging_equals_computing_at_once(n: int, m: int, offset: float) -> None:
    x = np.random.default_rng(n * 21 + m).normal(offset, 1.0, (n + m, 3))
    merged, whole = merge(moments(x[:n]), moments(x[n:])), moments(x)
    assert merged.n == whole.n
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_activations_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    with StoreWriter.open(tmp_path / "store", spec("float16")) as writer:
        write_sequences(writer)
        for shard in writer.missing_shards():
            shape = (len(writer.shard_rows(shard)), CONTEXT)
            payload = {layer: np.ones((*shape, d), np.float16) for layer, d in LAYERS.items()}
            payload[11][-1, 1, 0] = value if shard == 1 else 1.0
            writer.write_shard(shard, payload)
        with pytest.raises(Problem, match=r"not finite[\s\S]*layer 11"):
            writer.finish(CARD_FACTS)
        assert not writer.complete
    with pytest.raises(Problem, match="partial"):
        store.open(tmp_path / "store")


def test_a_store_without_a_training_token_says_so(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "store", spec()) as writer:
        with writer.sequences() as out:
            out.add_document("only", "test", None, "heldout", 8)
            out.add_rows(np.zeros((8, CONTEXT), np.int32), np.zeros((8, CONTEXT), np.int32))
        writer.write_shard(0, {layer: np.zeros((8, CONTEXT, d), np.uint16) for layer, d in LAYERS.items()})
        writer.finish(CARD_FACTS)
    assert store.open(tmp_path / "store").statistics(3).count == 0
