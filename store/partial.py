"""A store that is being written, as every process sees it that computes a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from store.files import write_atomically
from store.layout import Layout
from store.manifest import NAME, Manifest
from store.problem import Problem
from store.records import FileRecord


class PartialStore:
    """The text and the shards of a partial store. Its manifest changes only through the one `StoreWriter`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest

    @classmethod
    def attach(cls, folder: Path, fingerprint: str) -> PartialStore:
        """Join the harvest of the store `folder`, whose text is written, from a process that is not its writer.

        Raises Problem where that store is not there: the folder is not shared, or was replaced, or is finished.
        """
        manifest = _manifest(folder)
        if manifest is None or manifest.fingerprint != fingerprint or manifest.n_sequences is None or manifest.root:
            raise Problem(
                "The store that is being written is not here.",
                where=folder,
                expected=f"the partial store of fingerprint {fingerprint}, its text written",
                found=f"{manifest.status}, fingerprint {manifest.fingerprint}" if manifest else "no store",
                do="keep the store where all workers see it under one path, and let one command write it",
            )
        return PartialStore(folder, manifest)

    def confirm(self) -> None:
        """Raise Problem where the folder holds another store by now, so that a late worker never writes into that."""
        if PartialStore.attach(self.folder, self.fingerprint).plan != self.plan:
            raise Problem("This store was begun again under another plan.", where=self.folder, found="a late worker")

    @property
    def request(self) -> dict[str, Any]:
        """Everything that decides the content."""
        return self._manifest.request

    @property
    def fingerprint(self) -> str:
        """sha256 of the request."""
        return self._manifest.fingerprint

    @property
    def plan(self) -> dict[str, Any]:
        """The execution plan that the first run recorded, empty until then; every resume has to follow it."""
        return self._manifest.plan

    @property
    def n_sequences(self) -> int | None:
        """Packed sequences; None until they are written."""
        return self._manifest.n_sequences

    @property
    def n_shards(self) -> int:
        """Shards of every array. The sequences must be written."""
        return self._layout.n_shards

    @property
    def _layout(self) -> Layout:
        return self._manifest.layout

    def shard_rows(self, shard: int) -> range:
        """The sequences that shard `shard` holds."""
        return self._layout.tokens.shard_rows(shard)

    def tokens(self, shard: int) -> np.ndarray:
        """Token ids of a shard, int32 [rows, context]."""
        return self._layout.tokens.map(self.folder, shard).copy()

    def document(self, shard: int) -> np.ndarray:
        """Document ids of a shard, int32 [rows, context]; -1 at BOS and padding."""
        return self._layout.document.map(self.folder, shard).copy()

    def stored(self, layer: int, row: int) -> np.ndarray:
        """One sequence of a shard that is written, [context, d] in storage type, as it lies on disk."""
        shard, place = divmod(row, self._layout.rows_per_shard)
        return self._layout.activations[layer].map(self.folder, shard)[place].copy()

    def put_shard(self, shard: int, payload: Mapping[int, np.ndarray]) -> dict[str, FileRecord]:
        """Write the files of one shard, a layer each: layer -> [rows, context, d] in storage type (bf16 as uint16).

        Returns what the writer has to record before they count. Two processes may do this with one shard: the same
        content comes twice. Raises ValueError for other layers, shapes or types.
        """
        layout, n_rows = self._layout, len(self.shard_rows(shard))
        if set(payload) != set(layout.layers) or any(len(rows) != n_rows for rows in payload.values()):
            raise ValueError(f"shard {shard} takes {n_rows} rows of each of the layers {list(layout.layers)}")
        return {
            array.shard_path(shard): put(self.folder, array.shard_path(shard), *array.encode(payload[layer]))
            for layer, array in layout.activations.items()
        }


def put(folder: Path, name: str, *parts: bytes | memoryview) -> FileRecord:
    """Write one file of the store `folder` atomically and return its record. Raises Problem when the disk is full."""
    write_atomically(folder / name, *parts)
    return FileRecord.of(*parts)


def _manifest(folder: Path) -> Manifest | None:
    """The manifest that is there now; None without one."""
    try:
        status = (folder / NAME).stat()
    except OSError:
        return None
    return _parsed(folder, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _parsed(folder: Path, inode: int, changed: int, size: int) -> Manifest:
    """One that did not change is parsed once: it takes seconds where a store has 70,000 shards."""
    return Manifest.load(folder)
