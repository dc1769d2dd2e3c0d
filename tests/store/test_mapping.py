"""Many shards in one range of addresses are the same numbers as a map for each, at every geometry."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.mapping import ContiguousRows, MappedRows, ScatteredRows, mapped
from store.problem import Problem
from store.same_folder import SameFolder
from store.shards import ShardedArray

PAGE_ROWS, ROW = 8, (16, 16)  # 8 rows of 512 bytes are a page


def written(folder: Path, n_rows: int, rows_per_shard: int = PAGE_ROWS) -> tuple[ShardedArray, np.ndarray]:
    array = ShardedArray("a", (n_rows, *ROW), rows_per_shard, "uint16", ("sequence", "position", "feature"))
    values = np.random.default_rng(n_rows).integers(0, 2**16, (n_rows, *ROW), dtype="<u2")
    for shard in range(array.n_shards):
        rows = array.shard_rows(shard)
        path = folder / array.shard_path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(array.encode(values[rows.start : rows.stop])))
    return array, values


def mappings_of(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


@given(n_rows=st.integers(1, 60), data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_of_mapping_agree(tmp_path_factory: pytest.TempPathFactory, n_rows: int, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("array")
    array, values = written(folder, n_rows)
    rows = np.array(data.draw(st.lists(st.integers(0, n_rows - 1), max_size=20)), np.int64)
    for opened in (ContiguousRows(SameFolder(folder), array), ScatteredRows(SameFolder(folder), array)):
        out = np.empty((len(rows), *ROW), "<u2")
        opened.take(rows, out)
        assert np.array_equal(out, values[rows])
        for row in rows.tolist():
            assert np.array_equal(opened.row(row), values[row])
        for shard in range(array.n_shards):
            held = array.shard_rows(shard)
            assert np.array_equal(opened.shard(shard), values[held.start : held.stop])


def test_shards_that_fill_pages_are_one_range_of_addresses(tmp_path: Path) -> None:
    array, _ = written(tmp_path, 30)
    opened = mapped(SameFolder(tmp_path), array)
    assert isinstance(opened, ContiguousRows)
    pointers = [opened.row(row).ctypes.data for row in range(30)]
    assert np.diff(pointers).tolist() == [512] * 29
    assert isinstance(mapped(SameFolder(tmp_path), written(tmp_path / "odd", 30, 12)[0]), ScatteredRows)


def test_only_shards_that_are_read_are_mapped(tmp_path: Path) -> None:
    array, _ = written(tmp_path, 30)
    opened = ContiguousRows(SameFolder(tmp_path), array)
    assert mappings_of(tmp_path) == []
    opened.take(np.array([9, 29]), np.empty((2, *ROW), "<u2"))
    assert [line.split("/c/")[1] for line in mappings_of(tmp_path)] == ["1/0/0", "3/0/0"]


def test_the_addresses_live_as_long_as_a_view_of_them(tmp_path: Path) -> None:
    array, values = written(tmp_path, 30)
    opened: MappedRows | None = ContiguousRows(SameFolder(tmp_path), array)
    assert opened is not None
    view = opened.row(17)
    del opened
    gc.collect()
    assert np.array_equal(view, values[17]) and mappings_of(tmp_path)
    del view
    gc.collect()
    assert mappings_of(tmp_path) == []


def test_writing_to_a_row_never_reaches_the_file(tmp_path: Path) -> None:
    array, values = written(tmp_path, 30)
    ContiguousRows(SameFolder(tmp_path), array).row(17)[:] = 0
    assert np.array_equal(ContiguousRows(SameFolder(tmp_path), array).row(17), values[17])


def test_threads_may_share_the_rows(tmp_path: Path) -> None:
    array, values = written(tmp_path, 60)
    opened = ContiguousRows(SameFolder(tmp_path), array)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 60, 200)
        out = np.empty((200, *ROW), "<u2")
        opened.take(rows, out)
        wrong.extend(np.flatnonzero((out != values[rows]).any(axis=(1, 2))).tolist())

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_damaged_shard_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    array, values = written(tmp_path, 30)
    path = tmp_path / array.shard_path(2)
    path.write_bytes(path.read_bytes()[:-3])
    opened = ContiguousRows(SameFolder(tmp_path), array)
    assert np.array_equal(opened.row(3), values[3])
    with pytest.raises(Problem, match="2/0/0"):
        opened.row(17)


def cached_pages(path: Path) -> int:
    """Pages of a file that are in the page cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as content:
        address = ctypes.addressof(ctypes.c_char.from_buffer(content))
        resident = (ctypes.c_ubyte * -(-len(content) // mmap.PAGESIZE))()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(content)), resident) == 0
    return sum(page & 1 for page in resident)


def test_rows_are_read_ahead_until_they_come_from_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, values = written(tmp_path, 30)
    asked: list[list[int]] = []
    monkeypatch.setattr(
        "store.mapping._Addresses.read_ahead", lambda self, offsets, size: asked.append((offsets // size).tolist())
    )
    opened, out = ContiguousRows(SameFolder(tmp_path), array), np.empty((2, *ROW), "<u2")
    opened.take(np.array([9, 29]), out)
    opened.take(np.array([10, 28]), out)
    assert asked == [[9, 29]]
    monkeypatch.setattr("store.mapping.COLD_SECONDS", -1.0)
    opened.take(np.array([3, 4]), out)
    opened.take(np.array([5, 6]), out)
    assert asked == [[9, 29], [5, 6]] and np.array_equal(out, values[[5, 6]])


def test_reading_ahead_fills_the_page_cache(tmp_path: Path) -> None:
    array, _ = written(tmp_path, 30)
    path = tmp_path / array.shard_path(1)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system keeps what it is asked to drop")
    opened = ContiguousRows(SameFolder(tmp_path), array)
    opened._map(np.array([1]))
    opened._addresses.read_ahead(np.array([9 * 512]), 512)
    end = time.monotonic() + 10
    while not cached_pages(path) and time.monotonic() < end:
        time.sleep(0.01)
    assert cached_pages(path)
