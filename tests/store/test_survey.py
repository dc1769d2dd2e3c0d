"""Every number of a survey beside plain numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import store
from store import ActivationStore, StoreWriter
from store.survey import largest_means, largest_variances, survey
from tests.store.make import CONTEXT, N_ROWS, spec, write_sequences, write_shard


@pytest.fixture
def whole(activations: ActivationStore) -> np.ndarray:
    return activations.read(11, range(N_ROWS)).double().numpy()


def test_norms_are_those_of_numpy(activations: ActivationStore, whole: np.ndarray) -> None:
    seen = survey(activations, 11)
    assert seen.rows.tolist() == list(range(N_ROWS)) and seen.n_not_finite == 0
    np.testing.assert_allclose(seen.norms, np.linalg.norm(whole, axis=2), rtol=1e-12)
    assert seen.median == np.median(seen.norms)


def test_a_survey_reads_no_more_than_it_is_asked_to(activations: ActivationStore, whole: np.ndarray) -> None:
    seen = survey(activations, 11, 5)
    assert seen.rows.tolist() == [0, 10, 21, 32, 42]
    np.testing.assert_allclose(seen.norms, np.linalg.norm(whole[seen.rows], axis=2), rtol=1e-12)


def test_outlier_dimensions(activations: ActivationStore, whole: np.ndarray) -> None:
    kept = whole[(rows := activations.rows("train"))][activations.document(rows) >= 0]
    mean, variance = kept.mean(axis=0), kept.var(axis=0)
    statistics = activations.statistics(11)
    means, shares = largest_means(statistics, 3), largest_variances(statistics, 6)
    assert [i for i, _ in means] == sorted(range(6), key=lambda i: -abs(mean[i]))[:3]
    np.testing.assert_allclose([value for _, value in means], mean[[i for i, _ in means]], rtol=1e-12)
    np.testing.assert_allclose([s for _, s in shares], np.sort(variance)[::-1] / variance.sum(), rtol=1e-12)
    assert sum(share for _, share in shares) == pytest.approx(1)


def test_sinks_and_values_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks at position 0 of every row and once at position 5; BOS holds values that are not finite in row 2."""
    from tests.store import make

    def activations(layer: int, row: int, *_: object) -> np.ndarray:
        x = np.ones((CONTEXT, make.LAYERS[layer]), np.float32)
        x[0] *= 6
        x[5] *= 7 if row == 3 else 4.9
        if row == 2:
            x[0, :2] = np.nan, np.inf
        return x

    monkeypatch.setattr(make, "activations", activations)
    with StoreWriter.open(tmp_path / "store", spec("float32")) as writer:
        write_sequences(writer)
        for shard in writer.missing_shards():
            write_shard(writer, shard, "float32")
        writer.finish({})
    opened = store.open(tmp_path / "store")
    seen = survey(opened, 3)
    assert seen.n_not_finite == 2 and seen.median == 2
    assert seen.sink_positions() == [(0, N_ROWS - 1), (5, 1)]
    ids = np.concatenate([np.delete(opened.tokens(range(N_ROWS))[:, 0], 2), opened.tokens([3])[0, 5:6]])
    assert dict(seen.sink_tokens()) == {
        int(i): int(n) for i, n in zip(*np.unique(ids, return_counts=True), strict=True)
    }
