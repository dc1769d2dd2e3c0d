"""Arrays that are on disk in another form than the canonical one: compressed, or cut into other chunks.

zarr-python decodes them. What it is given was checked first: metadata of this module's own making, and shards whose
chunks lie inside the file and unpack to the size that they must have, so that a hostile one cannot fill memory.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from store.problem import Problem
from store.same_folder import SameFolder
from store.shards import ABSENT, ShardedArray

if TYPE_CHECKING:  # importing zarr starts a thread, which only those pay for who read such a store
    import zarr
    from zarr.abc.store import Store

METADATA_BYTES = 2**16
"""A `zarr.json` is smaller."""
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_COMPRESSORS = {
    "blosc": {"typesize": 1, "cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0},
    "zstd": {"level": 0, "checksum": False},
}
"""Codecs that say the size of what they hold, with settings that matter to a writer alone."""


@dataclass(frozen=True)
class EncodedArray:
    """An array and how its shards are encoded."""

    array: ShardedArray
    """The canonical form."""
    chunk: tuple[int, ...]
    """Shape of the chunks that are encoded: of a part of a shard, or of the shard."""
    compressor: str | None
    """A key of `_COMPRESSORS`."""
    checked: bool
    """Whether every chunk ends with its crc32c."""
    index: str | None
    """Where the index of the chunks is, "start" or "end"; None where a shard is one chunk."""

    @classmethod
    def parse(cls, array: ShardedArray, content: bytes, where: object) -> EncodedArray:
        """Read the `zarr.json` of `array`, found at `where`: the canonical one but for its codecs.

        Raises Problem for other metadata, and for codecs that are not known to be safe.
        """
        try:
            if len(content) > METADATA_BYTES:
                raise ValueError(f"{len(content):,} bytes")
            metadata = json.loads(content)
            canonical = json.loads(array.metadata())
            codecs = metadata.pop("codecs")
            del canonical["codecs"]
            if metadata != canonical:
                raise ValueError("another array")
            return cls._of_codecs(array, codecs)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise Problem(
                "This form of a store's array cannot be read.",
                where=where,
                expected="the metadata of the array, and as codecs bytes with blosc or zstd, sharded or not",
                found=str(error) or type(error).__name__,
                do="get the store in its raw form from its source",
            ) from None

    @classmethod
    def _of_codecs(cls, array: ShardedArray, codecs: list[dict[str, Any]]) -> EncodedArray:
        shard = (array.rows_per_shard, *array.shape[1:])
        if codecs[0]["name"] != "sharding_indexed":
            return cls(array, shard, *_chunk_codecs(codecs), index=None)
        if len(codecs) > 1:
            raise ValueError(f"codecs after the shards: {codecs[1:]}")
        sharding = codecs[0]["configuration"]
        chunk = tuple(sharding["chunk_shape"])
        if any(type(n) is not int or n < 1 or size % n for n, size in zip(chunk, shard, strict=True)):
            raise ValueError(f"chunks {chunk} of shards {shard}")
        place = sharding.get("index_location", "end")
        if sharding["index_codecs"] != [_BYTES, _CRC32C] or place not in ("start", "end"):
            raise ValueError(f"an index {sharding['index_codecs']} at the {place}")
        return cls(array, chunk, *_chunk_codecs(sharding["codecs"]), index=place)

    def check(self, shard: bytes, where: object) -> None:
        """Raise Problem for a shard whose chunks reach out of it or say that they unpack to another size."""
        try:
            view = memoryview(shard)
            expected = math.prod(self.chunk) * self.array.storage.itemsize
            for offset, size in self._chunks(view):
                chunk = view[offset : offset + size - 4 * self.checked]
                if (found := _unpacked_size(self.compressor, chunk)) != expected:
                    raise ValueError(f"a chunk at byte {offset} that unpacks to {found} bytes instead of {expected}")
        except (ValueError, struct.error, IndexError) as error:
            raise _undecodable(where, error) from None

    def _chunks(self, shard: memoryview) -> list[tuple[int, int]]:
        """Offset and size of every chunk that is there."""
        if self.index is None:
            return [(0, len(shard))]
        whole = (self.array.rows_per_shard, *self.array.shape[1:])
        size = 16 * math.prod(whole) // math.prod(self.chunk) + 4
        if len(shard) < size:
            raise ValueError(f"{len(shard)} bytes, less than an index")
        start = 0 if self.index == "start" else len(shard) - size
        index = bytes(shard[start : start + size])
        if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise ValueError("an index that differs from its crc32c")
        pairs = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
        chunks = [(offset, size) for offset, size in pairs.tolist() if (offset, size) != (ABSENT, ABSENT)]
        if outside := [chunk for chunk in chunks if sum(chunk) > len(shard)]:
            raise ValueError(f"a chunk outside the file: {outside[0]}")
        return chunks

    def decode(self, shard: int, content: bytes, where: object) -> np.ndarray:
        """The rows [n, ...] of shard number `shard`, whose file holds `content`. Raises Problem where it cannot be."""
        from zarr.buffer.cpu import Buffer
        from zarr.storage import MemoryStore

        self.check(content, where)
        key = self.array.shard_path(shard).removeprefix(f"{self.array.path}/")
        rows = self.array.shard_rows(shard)
        files = MemoryStore({key: Buffer.from_bytes(content)})
        return self.read(self._opened(files), slice(rows.start, rows.stop), where)

    def opened(self, folder: Path) -> zarr.Array:
        """The array of the store `folder`, for `read`."""
        from zarr.storage import LocalStore

        return self._opened(LocalStore(folder / self.array.path, read_only=True))

    def read(self, opened: zarr.Array, rows: slice | int, where: object) -> np.ndarray:
        """Some rows of what `opened` gave. Raises Problem where they cannot be decoded."""
        try:
            return np.ascontiguousarray(opened[rows], self.array.storage)
        except Exception as error:  # every codec has its own
            raise _undecodable(where, error) from error

    def _opened(self, files: Store) -> zarr.Array:
        import zarr
        from zarr.storage import StorePath

        return zarr.Array.from_dict(StorePath(files), json.loads(self.array.metadata()) | {"codecs": self._codecs()})

    def _codecs(self) -> list[dict[str, Any]]:
        codecs: list[dict[str, Any]] = [_BYTES]
        if self.compressor:
            codecs.append({"name": self.compressor, "configuration": _COMPRESSORS[self.compressor]})
        if self.checked:
            codecs.append(_CRC32C)
        if self.index is None:
            return codecs
        sharding = {
            "chunk_shape": list(self.chunk),
            "codecs": codecs,
            "index_codecs": [_BYTES, _CRC32C],
            "index_location": self.index,
        }
        return [{"name": "sharding_indexed", "configuration": sharding}]


class EncodedRows:
    """The rows of an encoded array, decoded one by one as they are asked for."""

    def __init__(self, folder: SameFolder, encoded: EncodedArray) -> None:
        self._folder = folder
        self._encoded = encoded
        self._array = encoded.array
        self._opened = encoded.opened(folder.path)
        self._checked: set[int] = set()

    def shard(self, shard: int) -> np.ndarray:
        rows = self._array.shard_rows(shard)
        return self._encoded.read(self._opened, slice(rows.start, rows.stop), self._check(shard))

    def row(self, row: int) -> np.ndarray:
        return self._encoded.read(self._opened, row, self._check(row // self._array.rows_per_shard))

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        for i, row in enumerate(rows.tolist()):
            out[i] = self.row(row)

    def _check(self, shard: int) -> Path:
        """Check the folder, and a shard when it is first read; returns its file."""
        self._folder.check()
        path = self._folder.path / self._array.shard_path(shard)
        if shard not in self._checked:
            try:
                with path.open("rb") as file:
                    self._encoded.check(file.read(), path.absolute())
            except OSError as error:
                raise _undecodable(path.absolute(), error) from None
            self._checked.add(shard)
        return path


def _chunk_codecs(codecs: list[dict[str, Any]]) -> tuple[str | None, bool]:
    """The compressor of a chunk, and whether its crc32c follows."""
    if codecs[0] != _BYTES:
        raise ValueError(f"a codec {codecs[0]}")
    names = [codec["name"] for codec in codecs[1:]]
    checked = names[-1:] == ["crc32c"]
    compressors = names[: len(names) - checked]
    if len(compressors) > 1 or not set(compressors) <= set(_COMPRESSORS):
        raise ValueError(f"codecs {', '.join(map(str, names))}")
    return (compressors[0] if compressors else None), checked


def _unpacked_size(compressor: str | None, chunk: memoryview) -> int:
    """Bytes that a chunk says it unpacks to. Raises ValueError, IndexError or struct.error where it does not say."""
    if compressor is None:
        return len(chunk)
    if compressor == "zstd":
        return _zstd_size(chunk)
    unpacked, _, packed = struct.unpack_from("<III", chunk, 4)
    if packed != len(chunk):
        raise ValueError(f"a blosc chunk of {packed} bytes in {len(chunk)}")
    return unpacked


def _zstd_size(frame: memoryview) -> int:
    """Content size in the header of a zstd frame (RFC 8878, section 3.1.1.1)."""
    if bytes(frame[:4]) != b"\x28\xb5\x2f\xfd":
        raise ValueError("no zstd frame")
    descriptor = frame[4]
    single_segment = descriptor >> 5 & 1
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    if width == 0 or len(frame) < start + width:
        raise ValueError("a zstd frame that does not say its size")
    return int.from_bytes(frame[start : start + width], "little") + 256 * (width == 2)


def _undecodable(where: object, error: Exception) -> Problem:
    return Problem(
        "A shard of the store cannot be decoded.",
        where=where,
        found=f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error),
        do="get the store again from its source",
    )
