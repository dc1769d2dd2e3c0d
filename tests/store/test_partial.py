"""Workers write shards beside the one writer: the same bytes in the same place, or nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from store import PartialStore, StoreWriter, remove_store
from store.files import file_sha256, write_atomically
from store.problem import Problem
from tests.store.make import CARD_FACTS, LAYERS, activations, content, make, spec, write_sequences, write_shard

PLAN = {"threads": 1}


def begin(folder: Path, plan: dict[str, int] = PLAN, **request: object) -> StoreWriter:
    writer = StoreWriter.open(folder, spec(**request), plan)  # type: ignore[arg-type]
    write_sequences(writer)
    return writer


def payload(part: PartialStore, shard: int) -> dict[int, np.ndarray]:
    return {layer: np.stack([activations(layer, row) for row in part.shard_rows(shard)]) for layer in LAYERS}


def test_shards_of_workers_count_once_they_are_recorded(tmp_path: Path) -> None:
    with begin(tmp_path / "store") as writer:
        worker = PartialStore.attach(tmp_path / "store", writer.fingerprint)
        assert worker.plan == PLAN and worker.n_shards == 3 and np.array_equal(worker.tokens(1), writer.tokens(1))
        for shard in (2, 0, 1):
            records = worker.put_shard(shard, payload(worker, shard))
            assert shard in writer.missing_shards()
            writer.record_shard(shard, records)
            assert shard not in writer.missing_shards()
        (tmp_path / "store/activations.zarr/layers/3/resid_post/c/1/0/0.0123abcd.partial").write_bytes(
            b"of a killed worker"
        )
        writer.finish(CARD_FACTS)
    assert content(tmp_path / "store") == content(make(tmp_path / "alone").path)


def test_records_that_cannot_be_true_are_refused(tmp_path: Path) -> None:
    with begin(tmp_path / "store") as writer:
        records = writer.put_shard(0, payload(writer, 0))
        with pytest.raises(ValueError, match="shard 1"):
            writer.record_shard(1, records)
        with pytest.raises(ValueError, match="shard 0"):
            writer.record_shard(0, dict(list(records.items())[:1]))
        (tmp_path / "store" / next(iter(records))).write_bytes(b"cut")
        with pytest.raises(Problem, match="damaged or missing"):
            writer.record_shard(0, records)
        assert writer.missing_shards() == [0, 1, 2]


def test_a_worker_writes_into_its_own_store_alone(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pytest.raises(Problem, match="not here"):
        PartialStore.attach(folder, "0" * 64)
    with begin(folder) as writer:
        worker = PartialStore.attach(folder, writer.fingerprint)
        worker.confirm()
        with pytest.raises(Problem, match="not here"):
            PartialStore.attach(folder, "0" * 64)
    remove_store(folder)
    with begin(folder, {"threads": 2}), pytest.raises(Problem, match="another plan"):
        worker.confirm()
    remove_store(folder)
    with begin(folder, seed=1), pytest.raises(Problem, match="not here"):
        worker.confirm()
    remove_store(folder)
    with begin(folder) as writer:
        for shard in writer.missing_shards():
            write_shard(writer, shard)
        worker.confirm()
        writer.finish(CARD_FACTS)
        with pytest.raises(Problem, match="not here"):
            worker.confirm()


def test_two_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    contents = [bytes([number]) * 300_000 for number in range(4)]

    def write_often(data: bytes) -> None:
        for _ in range(10):
            write_atomically(path, data[:1000], data[1000:])
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write_often, contents))
    assert path.read_bytes() in contents and [entry.name for entry in tmp_path.iterdir()] == ["shard"]
    assert len(file_sha256(path)) == 64
