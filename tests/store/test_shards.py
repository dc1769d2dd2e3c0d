"""Shards are what zarr-python writes, and every row is where the arithmetic says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from store.files import write_atomically
from store.manifest import StoreSpec
from store.problem import Problem
from store.shards import ShardedArray, array_metadata, group_metadata

lengths = st.integers(1, 200)


def sharded(shape: tuple[int, ...], rows_per_shard: int, dtype: str, fill_value: int = 0) -> ShardedArray:
    dimensions = ("sequence", "position", "feature")[: len(shape)]
    return ShardedArray("x", shape, rows_per_shard, dtype, dimensions, fill_value, {"logical_dtype": "test"})


def write(folder: Path, array: ShardedArray, data: np.ndarray) -> None:
    write_atomically(folder / "x" / "zarr.json", array.metadata())
    for shard in range(array.n_shards):
        rows = array.shard_rows(shard)
        write_atomically(folder / array.shard_path(shard), *array.encode(data[rows.start : rows.stop]))


@pytest.mark.parametrize("dtype", ["uint16", "float16", "float32", "int32"])
@pytest.mark.parametrize("shape", [(21, 4, 3), (16, 5, 2), (3, 2, 7), (19, 6)])
def test_every_byte_is_what_zarr_python_writes(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    fill_value = -1 if dtype == "int32" else 0
    array = sharded(shape, 8, dtype, fill_value)
    data = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    data[1] = fill_value  # zarr drops empty chunks unless told not to
    write(tmp_path / "ours", array, data)
    with zarr.config.set({"array.write_empty_chunks": True}):
        theirs = zarr.create_group(tmp_path / "theirs").create_array(
            "x",
            shape=shape,
            chunks=(1, *shape[1:]),
            shards=(8, *shape[1:]),
            dtype=dtype,
            compressors=None,
            fill_value=fill_value,
            attributes={"logical_dtype": "test"},
            dimension_names=array.dimensions,
        )
        theirs[:] = data
    names = ["x/zarr.json", *array.files()]
    assert [p for p in (tmp_path / "theirs/x").rglob("*") if p.is_file()].__len__() == len(names)
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_metadata_is_what_zarr_python_writes(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path, attributes={"count": 3})
    group.create_array("mean", shape=(5,), chunks=(5,), dtype="float64", compressors=None, dimension_names=("feature",))
    assert (tmp_path / "zarr.json").read_bytes() == group_metadata({"count": 3})
    ours = array_metadata((5,), (5,), "float64", dimensions=("feature",))
    assert (tmp_path / "mean/zarr.json").read_bytes() == ours


@given(n_rows=lengths, rows_per_shard=lengths)
def test_shards_partition_the_rows(n_rows: int, rows_per_shard: int) -> None:
    array = sharded((n_rows, 2), rows_per_shard, "int32")
    rows = [row for shard in range(array.n_shards) for row in array.shard_rows(shard)]
    assert rows == list(range(n_rows))
    assert all(len(array.shard_rows(shard)) == rows_per_shard for shard in range(array.n_shards - 1))
    with pytest.raises(IndexError):
        array.shard_rows(array.n_shards)


@given(n_rows=st.integers(1, 30), rows_per_shard=st.integers(1, 30), context=st.integers(1, 5))
def test_the_index_points_at_every_row(n_rows: int, rows_per_shard: int, context: int) -> None:
    n_rows = min(n_rows, rows_per_shard)
    array = sharded((n_rows, context, 3), rows_per_shard, "float16")
    data = np.arange(n_rows * context * 3, dtype="<f2").reshape(n_rows, context, 3)
    payload, index = array.encode(data)
    assert len(index) == 16 * rows_per_shard + 4
    entries = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    for row, (offset, size) in enumerate(entries[:n_rows]):
        assert np.array_equal(np.frombuffer(payload[offset : offset + size], "<f2"), data[row].ravel())
    assert (entries[n_rows:] == 2**64 - 1).all()


@given(context=st.integers(1, 4096), d=st.integers(1, 16384), dtype=st.sampled_from(["bfloat16", "float32"]))
def test_shards_are_as_large_as_they_may_be(context: int, d: int, dtype: str) -> None:
    limit = 64 * 2**20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("store.manifest.SHARD_BYTES", limit)
        rows = StoreSpec({}, context, dtype, {0: d, 1: max(1, d // 2)}).rows_per_shard
    row_bytes = math.prod((context, d, 2 if dtype == "bfloat16" else 4))
    assert rows % 8 == 0 and rows >= 8
    assert rows == 8 or rows * row_bytes <= limit
    assert (rows + 8) * row_bytes > limit


def test_a_map_shows_the_rows(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, (21, 4, 3)).astype("uint16")
    array = sharded(data.shape, 8, "uint16")
    write(tmp_path, array, data)
    assert np.array_equal(np.concatenate([array.map(tmp_path, shard) for shard in range(3)]), data)


@pytest.mark.parametrize("damage", ["index", "truncate", "extend", "shift"])
def test_a_map_refuses_rows_that_are_elsewhere(tmp_path: Path, damage: str) -> None:
    data = np.ones((8, 4, 3), "uint16")
    array = sharded(data.shape, 8, "uint16")
    write(tmp_path, array, data)
    path = tmp_path / array.shard_path(0)
    whole = path.read_bytes()
    broken = {
        "index": whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:],
        "truncate": whole[:-1],
        "extend": whole + b"\0",
        "shift": b"\0" + whole[:-1],
    }
    path.write_bytes(broken[damage])
    with pytest.raises(Problem, match="damaged"):
        array.map(tmp_path, 0)


@pytest.mark.parametrize(
    "rows", [np.zeros((9, 4, 3), "u2"), np.zeros((8, 4, 2), "u2"), np.zeros((8, 4, 3), "f4"), np.zeros((0, 4, 3), "u2")]
)
def test_rows_of_another_shape_or_type_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows of"):
        sharded((16, 4, 3), 8, "uint16").encode(rows)
