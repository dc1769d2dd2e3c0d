"""What a store from elsewhere may claim: checked before anything is allocated or computed from the claim.

The checks raise ValueError with what was found; the reader of the file says which file it was.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from store.layout import Layout

MANIFEST_BYTES = 64 * 2**20
"""Of a manifest."""
FILE_BYTES = 192
"""Of what a manifest has of a file: its path, digest and size."""
SHARD_BYTES = 64 * 2**20
"""Of a shard's payload, unless eight sequences need more."""
ROW_BYTES = 2**32
"""Of one sequence of one layer."""
ARRAY_BYTES = 2**46
"""Of one array, which a reader maps into its address space as a whole."""
LAYERS = 2**10
"""Of one store."""
FILES = 2**20
"""Shards of all arrays together."""
NUMBER = 2**40
"""Of any count or size in a manifest."""
DEPTH = 32
"""Objects and lists inside one another, in a request or plan."""


def most_shards(n_layers: int) -> int:
    """Shards of which a manifest has room for the files: one of tokens, one of documents and two of each layer, as a
    compressed store names both forms. Of one layer, 87,000 shards hold 5.8 TB."""
    return int(MANIFEST_BYTES * 0.99) // FILE_BYTES // (2 + 2 * n_layers)


def read_manifest(path: Path) -> bytes:
    """The content of the regular file `path`, if a manifest can be so large. Raises OSError or ValueError."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("no regular file")
    if status.st_size > MANIFEST_BYTES:
        raise ValueError(f"{status.st_size:,} bytes, more than {MANIFEST_BYTES:,}")
    return path.read_bytes()


def parse_manifest(content: bytes) -> Any:
    """The JSON value in `content`: UTF-8, each key once, no NaN. Raises ValueError."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object with the same key twice")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def whole_number(value: Any, least: int = 0) -> int:
    """`value` if it is an int (and no bool) from `least` to `NUMBER`."""
    if type(value) is not int or not least <= value <= NUMBER:
        raise ValueError(f"{value!r:.40} where a number of at least {least} belongs")
    return value


def shallow_object(value: Any) -> dict[str, Any]:
    """`value` if it is an object whose parts are nested at most `DEPTH` deep."""
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object belongs")
    level: list[Any] = [value]
    for _ in range(DEPTH):
        children = [list(part.values()) if isinstance(part, dict) else part for part in level]
        level = [child for parts in children for child in parts if isinstance(child, dict | list)]
        if not level:
            return value
    raise ValueError(f"an object nested more than {DEPTH} deep")


def check_geometry(layout: Layout, n_files: int, complete: bool) -> None:
    """Refuse a geometry that cannot be, or that asks for more shards than the manifest names files.

    A store names the shards of tokens and documents as soon as it knows its sequences, and all when complete.
    """
    widest = layout.activations[max(layout.layers, key=lambda layer: layout.layers[layer])]
    rows, n_arrays = layout.rows_per_shard, 2 + len(layout.layers)
    named = layout.n_shards * (n_arrays if complete else 2)
    if rows % 8 or (rows > 8 and rows * widest.row_bytes > SHARD_BYTES):
        raise ValueError(f"shards of {rows} sequences of {widest.row_bytes:,} bytes")
    if widest.row_bytes > ROW_BYTES or layout.n_sequences * widest.row_bytes > ARRAY_BYTES:
        raise ValueError(f"{layout.n_sequences:,} sequences of {widest.row_bytes:,} bytes")
    if layout.n_shards * n_arrays > FILES or named > n_files:
        raise ValueError(f"{layout.n_shards:,} shards of {n_arrays:,} arrays among {n_files:,} files")
