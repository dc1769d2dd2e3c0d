"""The bytes of one sharded Zarr array: metadata, payload, index, and mapping them back.

A shard file is the payload (rows back to back, little-endian, C order) followed by an index of
(offset, size) pairs and its crc32c. Payload first keeps it page-aligned, and one inner chunk per row
keeps it contiguous, so a shard is a valid Zarr v3 shard *and* one memory-mappable array.
`STORE.md` is the normative description.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from store.problem import Problem

ABSENT = 2**64 - 1
"""Offset and size of an inner chunk that the last shard does not have."""

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def group_metadata(attributes: Mapping[str, Any] | None = None) -> bytes:
    """`zarr.json` of a group."""
    return _zarr_json({"attributes": dict(attributes or {}), "zarr_format": 3, "node_type": "group"})


def array_metadata(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    codecs: list[dict[str, Any]] | None = None,
    *,
    fill_value: float = 0,
    attributes: Mapping[str, Any] | None = None,
    dimensions: tuple[str, ...],
) -> bytes:
    """`zarr.json` of an array, byte for byte as zarr-python writes it."""
    return _zarr_json(
        {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": float(fill_value) if dtype.startswith("float") else int(fill_value),
            "codecs": codecs or [_BYTES],
            "attributes": dict(attributes or {}),
            "dimension_names": list(dimensions),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
    )


def _zarr_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode()


@dataclass(frozen=True)
class ShardedArray:
    """One array of a store, cut along its first axis (rows, that is packed sequences) into shards."""

    path: str
    """Folder of the array, relative to the store, with forward slashes."""
    shape: tuple[int, ...]
    """Rows first; every other axis is whole in every shard."""
    rows_per_shard: int
    """Rows in every shard but the last."""
    dtype: str
    """Storage type under its numpy and Zarr name; always little-endian on disk."""
    dimensions: tuple[str, ...]
    """Names of the axes."""
    fill_value: int = 0
    """What a Zarr reader would show for a missing row. A complete store has none."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Zarr attributes."""

    @cached_property
    def storage(self) -> np.dtype:
        """numpy type of the bytes on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; row i of a shard starts at byte i * row_bytes."""
        return math.prod(self.shape[1:]) * self.storage.itemsize

    @property
    def n_shards(self) -> int:
        """Number of shard files."""
        return -(-self.shape[0] // self.rows_per_shard)

    def shard_rows(self, shard: int) -> range:
        """Rows of the array that shard `shard` holds."""
        if not 0 <= shard < self.n_shards:
            raise IndexError(f"shard {shard} of {self.path}, which has {self.n_shards}")
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.shape[0]))

    def shard_path(self, shard: int) -> str:
        """File of shard `shard`, relative to the store."""
        return "/".join([self.path, "c", str(shard), *["0"] * (len(self.shape) - 1)])

    def shard_bytes(self, shard: int) -> int:
        """Size of the file of shard `shard`: its payload, 16 bytes for each row of a full shard, and the crc32c."""
        return len(self.shard_rows(shard)) * self.row_bytes + 16 * self.rows_per_shard + 4

    def files(self) -> list[str]:
        """Every shard file, relative to the store."""
        return [self.shard_path(shard) for shard in range(self.n_shards)]

    @property
    def metadata_path(self) -> str:
        """`zarr.json` of the array, relative to the store."""
        return f"{self.path}/zarr.json"

    def all_files(self) -> list[str]:
        """`zarr.json` and every shard file, relative to the store."""
        return [self.metadata_path, *self.files()]

    def metadata(self, compressor: Mapping[str, Any] | None = None) -> bytes:
        """`zarr.json` of the array; with a `compressor`, that of its compressed form."""
        inner = (1, *self.shape[1:])
        sharding = {
            "chunk_shape": list(inner),
            "codecs": [_BYTES, compressor] if compressor else [_BYTES],
            "index_codecs": [_BYTES, {"name": "crc32c"}],
            "index_location": "end",
        }
        return array_metadata(
            self.shape,
            (self.rows_per_shard, *self.shape[1:]),
            self.dtype,
            [{"name": "sharding_indexed", "configuration": sharding}],
            fill_value=self.fill_value,
            attributes=self.attributes,
            dimensions=self.dimensions,
        )

    def index(self, n_rows: int) -> bytes:
        """The index that ends a shard of `n_rows` rows: 16 bytes a row of a full shard, then the crc32c."""
        entries = np.full((self.rows_per_shard, 2), ABSENT, "<u8")
        entries[:n_rows, 0] = np.arange(n_rows, dtype="<u8") * np.uint64(self.row_bytes)
        entries[:n_rows, 1] = self.row_bytes
        body = entries.tobytes()
        return body + google_crc32c.value(body).to_bytes(4, "little")

    def encode(self, rows: np.ndarray) -> tuple[memoryview, bytes]:
        """Payload and index of a shard that holds `rows` [n <= rows_per_shard, ...], in storage type."""
        if rows.shape[1:] != self.shape[1:] or not 0 < len(rows) <= self.rows_per_shard:
            raise ValueError(f"rows of shape {rows.shape} for a shard of {self.path} {self.shape}")
        if rows.dtype != self.storage:
            raise ValueError(f"rows of type {rows.dtype} for {self.path}, which stores {self.storage}")
        return np.ascontiguousarray(rows).data.cast("B"), self.index(len(rows))

    def opened(self, folder: Path, shard: int) -> BinaryIO:
        """Shard `shard` below the store `folder`, open for reading, after its index was compared.

        Raises Problem for a file that cannot be read or whose rows are not where the format puts them.
        """
        path = folder / self.shard_path(shard)
        n_rows = len(self.shard_rows(shard))
        try:
            file = path.open("rb")
            file.seek(n_rows * self.row_bytes)
            index = file.read()
        except OSError as error:
            raise _damaged(path, "a file", error.strerror) from error
        if index != self.index(n_rows):
            file.close()
            raise _damaged(path, f"{n_rows} rows of {self.row_bytes} bytes, then their index", "another index")
        return file

    def map(self, folder: Path, shard: int) -> np.ndarray:
        """Shard `shard` below the store `folder` as one array [rows, ...], mapped and not read.

        The map is private: pages are shared with the page cache until someone writes to them, and
        what is written never reaches the file.
        """
        shape = (len(self.shard_rows(shard)), *self.shape[1:])
        with self.opened(folder, shard) as file:
            return np.asarray(np.memmap(file, dtype=self.storage, mode="c", shape=shape))


def _damaged(path: Path, expected: str, found: str | None) -> Problem:
    return Problem(
        "A shard of the store is damaged.",
        where=path.absolute(),
        expected=expected,
        found=found,
        do="run `pipeline store verify` on the store, then harvest it again",
    )
