"""Writing a store so that a kill at any moment costs at most the shard that was being written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from store.card import card
from store.files import PARTIAL, remove, remove_partials
from store.layout import CARD, Layout
from store.lock import Lock
from store.manifest import NAME, Manifest, StoreSpec, as_json
from store.problem import Problem
from store.progress import SILENT, Progress
from store.records import FileRecord
from store.sequences import SequenceWriter, put
from store.statistics import compute_statistics, statistics_files
from store.verify import foreign_entries, wrong_contents


class OtherContent(Problem):
    """The folder holds a store that was made from another request."""


class StoreWriter:
    """The only writer of a store. A context manager that holds the store's lock.

    A file counts once it is whole on disk *and* the manifest names it with its sha256. Everything else is
    removed when the next writer opens the store, so what a kill leaves behind never shows.
    """

    def __init__(self, folder: Path, manifest: Manifest, lock: Lock, damaged: set[str], progress: Progress) -> None:
        self.folder = folder
        self._manifest = manifest
        self._lock = lock
        self._progress = progress
        known = manifest.n_sequences is not None
        self._has_sequences = known and not damaged & manifest.layout.sequence_files()

    @classmethod
    def open(
        cls,
        folder: Path,
        spec: StoreSpec,
        plan: Mapping[str, Any] | None = None,
        *,
        progress: Progress = SILENT,
    ) -> StoreWriter:
        """Create the store `folder`, or go on with one of the same fingerprint.

        `plan` is recorded in a new store; where it depends on the text, `record_plan` comes later.

        Going on hashes every recorded file, forgets those that do not verify and deletes whatever else lies
        in the folder. A finished store in which everything verifies is left alone: `complete` is True.

        Raises OtherContent (a Problem) for a store of another fingerprint, which `remove_store` removes, and
        Problem for a folder that is no store, a damaged manifest, or a store that another process is writing.
        """
        folder = Path(folder)
        lock = Lock(folder)
        try:
            if is_vacant(folder):
                remove_partials(folder)
                manifest, damaged = Manifest.of(spec, plan), set[str]()
                folder.mkdir(parents=True, exist_ok=True)
                manifest.save(folder)
            else:
                manifest, damaged = _resume(folder, spec, progress)
            return cls(folder, manifest, lock, damaged, progress)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def plan(self) -> dict[str, Any]:
        """The execution plan that the first run recorded, empty until then; every resume has to follow it."""
        return self._manifest.plan

    def record_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the execution plan down, once, before the first shard of activations."""
        if self._manifest.plan:
            raise RuntimeError("this store has its plan already")
        self._save(replace(self._manifest, plan=as_json(plan)))

    @property
    def fingerprint(self) -> str:
        """sha256 of the request."""
        return self._manifest.fingerprint

    @property
    def root(self) -> str | None:
        """Root digest; None while the store is partial."""
        return self._manifest.root

    @property
    def complete(self) -> bool:
        """Whether the store is finished."""
        return self.root is not None

    @property
    def n_sequences(self) -> int | None:
        """Packed sequences; None until they are written."""
        return self._manifest.n_sequences if self._has_sequences else None

    @property
    def n_shards(self) -> int:
        """Shards of every array. The sequences must be written."""
        return self._layout.n_shards

    @property
    def _layout(self) -> Layout:
        if not self._has_sequences:
            raise RuntimeError("write the sequences of this store first")
        return self._manifest.layout

    def sequences(self) -> SequenceWriter:
        """Write tokens, document ids and documents; leaving the block commits them.

        The activations that an earlier run left stay only if the sequences are the same as they were then.
        """
        if self._has_sequences:
            raise RuntimeError("the sequences of this store are already written")
        return SequenceWriter(self.folder, self._manifest, self._commit_sequences)

    def _commit_sequences(self, n_sequences: int, records: dict[str, FileRecord]) -> None:
        former = self._manifest.files
        same = all(former.get(name) == record for name, record in records.items())
        files = former | records if same else records
        self._save(replace(self._manifest, n_sequences=n_sequences, files=files))
        for file in foreign_entries(self.folder, files):
            (self.folder / file.path).unlink()
        self._has_sequences = True

    def missing_shards(self) -> list[int]:
        """The shards still to be written, ascending: the first that is not there, and all after it."""
        layout, files = self._layout, self._manifest.files
        for shard in range(layout.n_shards):
            if any(name not in files for name in layout.shard_files(shard).values()):
                return list(range(shard, layout.n_shards))
        return []

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

    def write_shard(self, shard: int, payload: Mapping[int, np.ndarray]) -> None:
        """Write the activations of one shard: layer -> [rows, context, d] in storage type (bf16 as uint16).

        May be called from one background thread. Raises ValueError for other layers, shapes or types.
        """
        if self.complete:
            raise RuntimeError("this store is finished")
        layout, n_rows = self._layout, len(self.shard_rows(shard))
        if set(payload) != set(layout.layers) or any(len(rows) != n_rows for rows in payload.values()):
            raise ValueError(f"shard {shard} takes {n_rows} rows of each of the layers {list(layout.layers)}")
        records = {}
        for layer, array in layout.activations.items():
            name = array.shard_path(shard)
            records[name] = put(self.folder, name, *array.encode(payload[layer]))
        self._record(records)

    def finish(self, card_facts: Mapping[str, str]) -> str:
        """Compute the statistics, write the card, seal the store; returns the root digest.

        Raises Problem when the activations hold values that are not finite.
        """
        if self.root is not None:
            return self.root
        if missing := self.missing_shards():
            raise RuntimeError(f"shards {missing} of this store are not written yet")
        layout = self._layout
        self._progress.start("statistics", len(layout.layers), "layer")
        for layer in layout.layers:
            files = statistics_files(layout, layer, compute_statistics(self.folder, layout, layer))
            self._record({name: put(self.folder, name, content) for name, content in files.items()})
            self._progress.advance(1)
        self._record({CARD: put(self.folder, CARD, card(self._manifest, card_facts))})
        sealed = self._manifest.completed()
        self._save(sealed)
        assert sealed.root is not None
        return sealed.root

    def _record(self, records: Mapping[str, FileRecord]) -> None:
        self._save(replace(self._manifest, files=self._manifest.files | dict(records)))

    def _save(self, manifest: Manifest) -> None:
        manifest.save(self.folder)
        self._manifest = manifest


def remove_store(folder: Path) -> None:
    """Delete a store and nothing else: a folder that has files but no manifest is refused.

    The manifest goes last, so that a removal which was interrupted can be repeated.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    lock = Lock(folder)
    try:
        if not is_vacant(folder) and not (folder / NAME).is_file():
            raise no_store(folder)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == NAME):
            remove(path)
        folder.rmdir()
    finally:
        lock.release()


def is_vacant(folder: Path) -> bool:
    """Whether there is nothing at `folder` but what an interrupted creation leaves."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name.endswith(PARTIAL) for path in folder.iterdir())


def no_store(folder: Path) -> Problem:
    """What to say of a folder that has files but no manifest."""
    return Problem(
        "This folder is in the way: it is no activation store.",
        where=folder.absolute(),
        expected=f"a store with its {NAME}, an empty folder, or nothing",
        do="move it away, or choose another folder with --store",
    )


def _resume(folder: Path, spec: StoreSpec, progress: Progress) -> tuple[Manifest, set[str]]:
    """Bring a store back to what its manifest can vouch for; returns the manifest and the damaged files."""
    if not (folder / NAME).is_file():
        raise no_store(folder)
    manifest = Manifest.load(folder)
    fresh = Manifest.of(spec, manifest.plan)
    if replace(manifest, n_sequences=None, files={}, root=None, encoding=None) != fresh:
        raise OtherContent(
            "The store in this folder was made from other parameters.",
            where=folder.absolute(),
            expected=_identity(fresh),
            found=_identity(manifest),
            do="choose another folder, or remove this one",
        )
    remove_partials(folder)
    damaged = {file.path for file in wrong_contents(folder, manifest.stored, progress)}
    if damaged:
        damaged |= set(manifest.encoding.files if manifest.encoding else ())  # raw shards do not mix with encoded ones
        names = ", ".join(sorted(damaged))
        progress.note(f"{folder}: {len(damaged)} damaged files will be written again: {names}")
        manifest = _without(manifest, damaged)
        manifest.save(folder)
    for file in foreign_entries(folder, manifest.files):
        (folder / file.path).unlink()
    for name in damaged:
        remove(folder / name)
    return manifest, damaged


def _identity(manifest: Manifest) -> str:
    return (
        f"fingerprint {manifest.fingerprint}, {manifest.dtype}, layers {', '.join(map(str, manifest.layers))}, "
        f"shards of {manifest.rows_per_shard} sequences of {manifest.context} tokens"
    )


def _without(manifest: Manifest, damaged: set[str]) -> Manifest:
    """The manifest of a partial store that forgets the damaged files and what was derived from them.

    Damaged sequence files keep their record: it tells whether writing them again gave the same text.
    """
    layout = manifest.layout
    forgotten = (damaged - layout.sequence_files()) | layout.derived_files()
    files = {name: record for name, record in manifest.files.items() if name not in forgotten}
    return replace(manifest, files=files, root=None, encoding=None)
