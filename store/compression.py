"""The compressed form of a shard: each row by itself, with the codec that was measured to be best for bfloat16.

On activations of Gemma 3 270M it saves 22 % of the bytes. It costs the mapping: such a store is for sending and
keeping, and is made raw again where it is trained from.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

from store.shards import ABSENT, ShardedArray

CODEC = "blosc-zstd"
"""Name of this form in a manifest."""
BLOCK_BYTES = 2**18
"""Unit of shuffling and compression within a row."""


def compressor(array: ShardedArray) -> dict[str, Any]:
    """The codec as `zarr.json` names it: bytes shuffled by significance, then zstd."""
    configuration = {
        "typesize": array.storage.itemsize,
        "cname": "zstd",
        "clevel": 1,
        "shuffle": "shuffle",
        "blocksize": BLOCK_BYTES,
    }
    return {"name": "blosc", "configuration": configuration}


def compressed(array: ShardedArray, rows: np.ndarray) -> bytes:
    """The compressed form of a shard that holds `rows` [n <= rows_per_shard, ...], in storage type.

    The same rows give the same bytes, those that zarr-python writes: so sending can go on where it broke off.
    """
    from numcodecs import blosc  # here, because it starts a thread

    blosc.use_threads = False  # they would leave the blocks of a row in any order; zarr sets it too
    codec = blosc.Blosc("zstd", 1, blosc.SHUFFLE, BLOCK_BYTES, typesize=array.storage.itemsize)
    chunks = [codec.encode(np.ascontiguousarray(row)) for row in rows]
    sizes = np.array([len(chunk) for chunk in chunks], "<u8")
    index = np.full((array.rows_per_shard, 2), ABSENT, "<u8")
    index[: len(rows), 0] = sizes.cumsum() - sizes
    index[: len(rows), 1] = sizes
    body = index.tobytes()
    return b"".join([*chunks, body, google_crc32c.value(body).to_bytes(4, "little")])
