"""Writing a store so that a kill at any moment costs at most the shards that the manifest does not name yet."""

from __future__ import annotations

import time
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
from store.partial import PartialStore, put
from store.problem import Problem
from store.progress import SILENT, Progress
from store.records import FileRecord
from store.sequences import SequenceWriter
from store.statistics import compute_statistics, statistics_files
from store.verify import foreign_entries, refuse, wrong_contents, wrong_sizes

SAVING = 0.05
"""Share of the time that goes into saving the manifest, at the most."""


class OtherContent(Problem):
    """The folder holds a store that was made from another request."""


class StoreWriter(PartialStore):
    """The only writer of a store's manifest. A context manager that holds the store's lock.

    A file counts once it is whole on disk *and* the manifest names it with its sha256. Everything else is
    removed when the next writer opens the store, so what a kill leaves behind never shows.
    """

    def __init__(self, folder: Path, manifest: Manifest, lock: Lock, damaged: set[str], progress: Progress) -> None:
        super().__init__(folder, manifest)
        self._lock = lock
        self._progress = progress
        known = manifest.n_sequences is not None
        self._has_sequences = known and not damaged & manifest.layout.sequence_files()
        self._unsaved = False
        self._saved_at = self._save_seconds = 0.0

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
        in the folder. A finished store in which everything verifies is left alone, with what else lies there:
        `complete` is True.

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
        try:
            if self._unsaved:
                self._save(self._manifest)
        finally:
            self._lock.release()

    def record_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the execution plan down, once, before the first shard of activations."""
        if self._manifest.plan:
            raise RuntimeError("this store has its plan already")
        self._save(replace(self._manifest, plan=as_json(plan)))

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
    def _layout(self) -> Layout:
        if not self._has_sequences:
            raise RuntimeError("write the sequences of this store first")
        return super()._layout

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
            (self.folder / file.path).unlink(missing_ok=True)
        self._has_sequences = True

    @property
    def has_shards(self) -> bool:
        """Whether activations are written."""
        return self._has_sequences and len(self.missing_shards()) < self.n_shards

    def missing_shards(self) -> list[int]:
        """The shards still to be written, ascending."""
        layout, files = self._layout, self._manifest.files
        return [
            shard
            for shard in range(layout.n_shards)
            if any(name not in files for name in layout.shard_files(shard).values())
        ]

    def write_shard(self, shard: int, payload: Mapping[int, np.ndarray]) -> None:
        """Write the activations of one shard: layer -> [rows, context, d] in storage type (bf16 as uint16).

        May be called from one background thread. Raises ValueError for other layers, shapes or types.
        """
        self._refuse_finished()
        self.record_shard(shard, self.put_shard(shard, payload))

    def record_shard(self, shard: int, records: Mapping[str, FileRecord]) -> None:
        """Enter a shard that is on disk, with what `put_shard` returned to whoever wrote it. Shards come in any order.

        Raises ValueError for the records of other files, and Problem for files that are not there in their size.
        """
        self._refuse_finished()
        if set(records) != set(self._layout.shard_files(shard).values()):
            raise ValueError(f"records of {sorted(records)} for shard {shard}")
        refuse(self.folder, wrong_sizes(self.folder, records))
        self._record(records)

    def _refuse_finished(self) -> None:
        if self.complete:
            raise RuntimeError("this store is finished")

    def finish(self, card_facts: Mapping[str, str]) -> str:
        """Compute the statistics, write the card, seal the store; returns the root digest.

        Raises Problem when the activations hold values that are not finite.
        """
        if self.root is not None:
            return self.root
        if missing := self.missing_shards():
            raise RuntimeError(f"shards {missing} of this store are not written yet")
        layout = self._layout
        for layer, statistics in compute_statistics(self.folder, layout, layout.layers, self._progress).items():
            files = statistics_files(layout, layer, statistics)
            self._record({name: put(self.folder, name, content) for name, content in files.items()})
        self._record({CARD: put(self.folder, CARD, card(self._manifest, card_facts))})
        remove_partials(self.folder)  # of workers that were killed while they wrote
        sealed = self._manifest.completed()
        self._save(sealed)
        assert sealed.root is not None
        return sealed.root

    def _record(self, records: Mapping[str, FileRecord]) -> None:
        """Enter files. Saving takes longer the more there are (1.5 s for 70,000), so it waits until it takes no more
        than `SAVING` of the time; a kill costs the shards since then."""
        self._manifest = replace(self._manifest, files=self._manifest.files | dict(records))
        self._unsaved = True
        if time.monotonic() - self._saved_at >= self._save_seconds / SAVING:
            self._save(self._manifest)

    def _save(self, manifest: Manifest) -> None:
        begun = time.monotonic()
        manifest.save(self.folder)
        self._manifest, self._unsaved = manifest, False
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - begun


def remove_store(folder: Path) -> None:
    """Delete a store and nothing else: a folder that has files but no manifest is refused.

    The manifest goes last, so that a removal which was interrupted can be repeated.
    """
    folder = Path(folder).resolve()
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
        do="move it away, or choose another folder",
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
    damaged = {file.path for file in wrong_contents(folder, manifest.stored, progress)}
    if manifest.root is not None and not damaged:
        return manifest, set()
    remove_partials(folder)
    if damaged:
        damaged |= set(manifest.encoding.files if manifest.encoding else ())  # raw shards do not mix with encoded ones
        names = ", ".join(sorted(damaged))
        progress.note(f"{folder}: {len(damaged)} damaged files will be written again: {names}")
        manifest = _without(manifest, damaged)
        manifest.save(folder)
    for file in foreign_entries(folder, manifest.files):
        (folder / file.path).unlink(missing_ok=True)
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
