"""An array of many shards as one array in the address space.

The addresses of the whole array are reserved at once, which costs nothing, and each shard is mapped over its part of
them when it is first read. So a row is an address away, whatever its shard; a batch is one native call; a store
may be larger than memory, whose page cache keeps what is read often.

What is not in the page cache is asked for all at once before it is copied. Left to page faults, one waits for the disk
after the other, each with a readahead of its own: 16 windows of 128 x 640 take 30 times longer (0.238 s, not 0.008).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import weakref
from threading import Lock
from typing import Any, Protocol

import numpy as np

from store.encoding import EncodedArray, EncodedRows
from store.same_folder import SameFolder
from store.shards import ShardedArray

_MAP_FIXED, _PROT_NONE = 0x10, 0  # on Linux and macOS; Python does not name them
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

COLD_SECONDS, COLD_RATE = 2e-4, 2e9
"""A copy that takes more seconds than this, and bytes/s less, must have waited for the disk."""


class MappedRows(Protocol):
    """The rows of one array of a store, for reading. Row numbers are valid; the store checks them."""

    def shard(self, shard: int) -> np.ndarray:
        """The rows of a shard [rows, ...], as a view where the shard can be mapped."""

    def row(self, row: int) -> np.ndarray:
        """One row [...], as a view where its shard can be mapped."""

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the rows [n] into `out` [n, ...], which is contiguous and of storage type."""


def mapped(folder: SameFolder, array: ShardedArray, encoded: EncodedArray | None = None) -> MappedRows:
    """`array` of the store in `folder` as one range of addresses, or shard by shard where its shards do not fill pages.

    Where it is `encoded` on disk, its rows cannot be mapped and are decoded instead.
    """
    if encoded is not None:
        return EncodedRows(folder, encoded)
    fills_pages = array.rows_per_shard * array.row_bytes % mmap.ALLOCATIONGRANULARITY == 0
    return ContiguousRows(folder, array) if fills_pages or array.n_shards == 1 else ScatteredRows(folder, array)


class ScatteredRows:
    """A map for each shard, and a copy for each row: the reference that `ContiguousRows` has to agree with."""

    def __init__(self, folder: SameFolder, array: ShardedArray) -> None:
        self._folder = folder
        self._array = array
        self._maps: dict[int, np.ndarray] = {}

    def shard(self, shard: int) -> np.ndarray:
        rows = self._maps.get(shard)
        if rows is None:
            rows = self._array.map(self._folder.path, shard)
            self._folder.check()
            self._maps[shard] = rows
        return rows

    def row(self, row: int) -> np.ndarray:
        shard, place = divmod(row, self._array.rows_per_shard)
        return self.shard(shard)[place]

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        for i, row in enumerate(rows.tolist()):
            out[i] = self.row(row)


class ContiguousRows:
    """All shards behind each other in the address space: shards must fill whole pages, but for the last one.

    Asking the kernel to read ahead costs a third of a copy of rows that are in the page cache, so it is done only
    after a copy that was slow, and before the first.
    """

    def __init__(self, folder: SameFolder, array: ShardedArray) -> None:
        self._folder = folder
        self._array = array
        self._shard_bytes = array.rows_per_shard * array.row_bytes
        self._addresses = _Addresses(array.n_shards * self._shard_bytes)
        self._rows = np.asarray(self._addresses)[: array.shape[0] * array.row_bytes].view(array.storage)
        self._rows = self._rows.reshape(array.shape)
        self._mapped = np.zeros(array.n_shards, bool)
        self._waiting = array.n_shards  # shards that are not mapped yet
        self._lock = Lock()
        self._cold = True

    def shard(self, shard: int) -> np.ndarray:
        self._map(np.array([shard]))
        rows = self._array.shard_rows(shard)
        return self._rows[rows.start : rows.stop]

    def row(self, row: int) -> np.ndarray:
        shard = row // self._array.rows_per_shard
        if not self._mapped[shard]:
            self._map(np.array([shard]))
        return self._rows[row]

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        if self._waiting:
            self._map(rows // self._array.rows_per_shard)
        if self._cold:
            self._addresses.read_ahead(rows * self._array.row_bytes, self._array.row_bytes)
        begun = time.perf_counter()
        self._rows.take(rows, axis=0, out=out, mode="clip")  # "raise" would copy twice
        self._cold = time.perf_counter() - begun > COLD_SECONDS + out.nbytes / COLD_RATE

    def _map(self, shards: np.ndarray) -> None:
        """Put those of `shards` in their place that are not there yet."""
        if self._mapped[shards].all():
            return
        with self._lock:
            for shard in np.unique(shards[~self._mapped[shards]]).tolist():
                size = len(self._array.shard_rows(shard)) * self._array.row_bytes
                with self._array.opened(self._folder.path, shard) as file:
                    self._folder.check()
                    self._addresses.place(shard * self._shard_bytes, size, file.fileno())
                self._mapped[shard] = True
                self._waiting -= 1


class _Addresses:
    """A range of reserved addresses, given back when no array refers to it any more."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._start = _mmap(None, size, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        weakref.finalize(self, _LIBC.munmap, self._start, size).atexit = False

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Bytes, for `np.asarray`, whose result keeps the range alive."""
        return {"version": 3, "shape": (self._size,), "typestr": "|u1", "data": (self._start, False)}

    def place(self, offset: int, size: int, descriptor: int) -> None:
        """Map the first `size` bytes of a file at `offset`: private, so that writes never reach the file."""
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        _mmap(self._start + offset, size, protection, mmap.MAP_PRIVATE | _MAP_FIXED, descriptor)

    def read_ahead(self, offsets: np.ndarray, size: int) -> None:
        """Have the kernel read `size` bytes from each of `offsets` on, without waiting for them. Only advice."""
        starts = offsets // mmap.PAGESIZE * mmap.PAGESIZE
        for start, n_bytes in zip(starts.tolist(), (offsets - starts + size).tolist(), strict=True):
            _LIBC.madvise(self._start + start, n_bytes, mmap.MADV_WILLNEED)


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    start: int = _LIBC.mmap(address, size, protection, flags, descriptor, 0)
    if start == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, f"mapping {size:,} bytes: {os.strerror(number)}")
    return start
