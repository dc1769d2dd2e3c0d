"""A store of some layers, of the first sequences, or of some documents of another store.

Shards that stay as they are become hard links where the file system allows, so that a subset of layers writes
none. Where documents are left out, nothing of them stays: no token, no vector, no row of the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from store.card import card
from store.documents import DocumentWriter
from store.files import digest, nested, remove_partials, sync_folder
from store.layout import CARD, DOCUMENTS, Layout
from store.lock import Lock
from store.manifest import NAME, Manifest, StoreSpec
from store.problem import Problem
from store.progress import SILENT, Progress
from store.reader import ActivationStore
from store.records import FileRecord
from store.sequences import file_record, put
from store.statistics import compute_statistics, statistics_files
from store.verify import wrong_contents
from store.writer import OtherContent, is_vacant, no_store


@dataclass(frozen=True)
class Selection:
    """What a subset keeps: of each criterion that is None, everything."""

    layers: tuple[int, ...] | None = None
    """Layers."""
    tokens: int | None = None
    """The first whole sequences that hold so many tokens."""
    documents: frozenset[str] | None = None
    """Ids of documents: the sequences that hold one, with all other documents in them blanked."""


def subset_facts(manifest: Manifest) -> dict[str, str]:
    """The row of the card that says of what a store is a subset."""
    return {"Subset of": f"the store with root {manifest.request['subset'][-1]['of']}"}


def subset(
    source: ActivationStore,
    folder: str | Path,
    selection: Selection,
    card_facts: Callable[[Manifest], Mapping[str, str]] = subset_facts,
    progress: Progress = SILENT,
) -> str:
    """Write the selection of `source` as a store of its own; returns its root digest, the same every time.

    What is read of `source` is verified first, so that damage is not made part of another store. A subset that
    was interrupted is begun again, one that is finished is left alone. `card_facts` gives the rows of the card.
    Raises Problem for a selection that `source` does not have or that keeps nothing, and for a folder that holds
    anything else.
    """
    folder = Path(folder)
    part = _Part(source, folder, selection)
    lock = Lock(folder)
    try:
        if (finished := _begin(folder, part.manifest)) is not None:
            return finished
        source.check_files(part.needed, progress)
        files = part.write_sequences() | part.write_activations(progress) | part.write_statistics()
        manifest = replace(part.manifest, n_sequences=len(part.rows), files=files)
        files[CARD] = put(folder, CARD, card(manifest, card_facts(manifest)))
        sealed = replace(manifest, files=files).completed()
        sealed.save(folder)
        assert sealed.root is not None
        return sealed.root
    finally:
        lock.release()


def _begin(folder: Path, manifest: Manifest) -> str | None:
    """Make `folder` a store of which nothing is written yet; the root where it is finished already."""
    if not is_vacant(folder):
        if not (folder / NAME).is_file():
            raise no_store(folder)
        found = Manifest.load(folder)
        if replace(found, n_sequences=None, files={}, root=None) != manifest:
            raise OtherContent(
                "There is another store in this folder.",
                where=folder.absolute(),
                expected=f"nothing, or fingerprint {manifest.fingerprint}",
                found=f"fingerprint {found.fingerprint}",
                do="choose another folder, or remove this one",
            )
        if found.root is not None and not wrong_contents(folder, found.files):
            return found.root
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    manifest.save(folder)
    return None


class _Part:
    """The part of `source` that a selection names, and how each file of it is written to `folder`."""

    def __init__(self, source: ActivationStore, folder: Path, selection: Selection) -> None:
        self.source, self.folder, self.selection = source, folder, selection
        if nested(folder, source.path):
            here, there = folder.resolve(), source.path.resolve()
            raise Problem("A subset needs a folder of its own.", where=here, found=f"source {there}", usage=True)
        source.rows("train")  # compares documents and their table, which the rest relies on
        self.rows = self._rows()
        self._whole = len(self.rows) == source.n_sequences and selection.documents is None

    def _rows(self) -> np.ndarray:
        """int64 [n]: the sequences to keep, ascending."""
        if self.selection.documents is not None:
            return self.source.rows_with(np.flatnonzero(self._chosen))
        wanted = self.source.n_sequences
        if self.selection.tokens is not None:
            wanted = min(wanted, -(-self.selection.tokens // self.source.context))
        return np.arange(wanted)

    @cached_property
    def _chosen(self) -> np.ndarray:
        """bool [n_documents]: the documents to keep. Problem where one is not there, or none has a token."""
        ids = self.source.documents["id"]
        if self.selection.documents is None:
            return np.ones(len(ids), bool)
        missing = self.selection.documents.difference(ids)
        if missing or not self.selection.documents:
            raise Problem(
                "The documents to keep are not all in this store." if missing else "No document is named.",
                where=self.source.path.absolute(),
                expected="ids of its documents.parquet",
                found=", ".join(sorted(missing)) or None,
                usage=True,
            )
        return ids.isin(self.selection.documents).to_numpy(bool)

    @cached_property
    def manifest(self) -> Manifest:
        """Of the new store, with nothing written yet. Shards stay as long as they were."""
        source, chosen = self.source, self.selection
        layers = sorted(set(source.layers if chosen.layers is None else chosen.layers))
        if unknown := set(layers) - set(source.layers):
            raise Problem(
                "The source does not have these layers.",
                expected=", ".join(map(str, source.layers)),
                found=", ".join(map(str, sorted(unknown))),
                usage=True,
            )
        if not len(self.rows):
            raise Problem("Nothing is left of the store.", where=source.path.absolute(), usage=True)
        step: dict[str, Any] = {"of": source.root}
        if chosen.layers is not None:
            step["layers"] = layers
        if chosen.tokens is not None:
            step["sequences"] = len(self.rows)
        if chosen.documents is not None:
            step["documents"] = digest(sorted(chosen.documents))
        before = source.request.get("subset")
        request = {**source.request, "subset": [*(before if isinstance(before, list) else []), step]}
        spec = StoreSpec(request, source.context, source.dtype, {layer: source.layers[layer] for layer in layers})
        return replace(Manifest.of(spec, source.plan), rows_per_shard=source.manifest.rows_per_shard)

    @cached_property
    def _layout(self) -> Layout:
        return replace(self.manifest, n_sequences=len(self.rows)).layout

    @cached_property
    def needed(self) -> set[str]:
        """The files of the source that are read or linked."""
        layout = self.source.manifest.layout
        arrays = [layout.tokens, layout.document, *(layout.activations[layer] for layer in self._layout.layers)]
        shards = np.unique(self.rows // layout.rows_per_shard).tolist()
        statistics = set().union(*(self._layout.statistics_paths(layer) for layer in self._layout.layers))
        return {DOCUMENTS, *(array.shard_path(s) for array in arrays for s in shards)} | (
            statistics if self._whole else set()
        )

    def _shard(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a shard to write: rows of the source, their documents, and what of them is kept (bool).

        What belongs to no document is kept up to the first token of a document that is left out: BOS and padding
        further on were computed from its text.
        """
        rows = self.rows[self._layout.tokens.shard_rows(shard)]
        document = self.source.document(rows)
        owned = document >= 0
        foreign = owned & ~self._chosen[np.where(owned, document, 0)] if owned.any() else owned
        return rows, document, ~foreign & (owned | ~np.logical_or.accumulate(foreign, axis=1))

    def _is_source_shard(self, shard: int, rows: np.ndarray, kept: np.ndarray) -> bool:
        """Whether a shard is the one of the source with the same number."""
        start = shard * self._layout.rows_per_shard
        there = self.source.manifest.layout.tokens
        same = shard < there.n_shards and np.array_equal(rows, np.arange(start, start + len(rows)))
        return bool(same and len(rows) == len(there.shard_rows(shard)) and kept.all())

    def write_sequences(self) -> dict[str, FileRecord]:
        """Tokens, document ids, the table of documents and every `zarr.json`."""
        layout = self._layout
        files = {name: put(self.folder, name, content) for name, content in layout.metadata().items()}
        if self._whole:
            return files | self._link(DOCUMENTS, *layout.tokens.files(), *layout.document.files())
        counts = np.zeros(len(self._chosen), np.int64)
        for shard in range(layout.n_shards):
            _, document, kept = self._shard(shard)
            counts += np.bincount(document[kept & (document >= 0)], minlength=len(counts))
        present = self._chosen if self.selection.documents is not None else counts > 0
        numbers = np.where(present, np.cumsum(present) - 1, -1).astype("<i4")
        for shard in range(layout.n_shards):
            rows, document, kept = self._shard(shard)
            renumbered = np.where(kept & (document >= 0), numbers[np.maximum(document, 0)], -1).astype("<i4")
            tokens = np.where(kept, self.source.tokens(rows), 0).astype("<i4")
            for array, values in ((layout.tokens, tokens), (layout.document, renumbered)):
                files |= self._put_or_link(array.shard_path(shard), *array.encode(values))
        return files | self._write_documents(present, counts)

    def _write_documents(self, present: np.ndarray, counts: np.ndarray) -> dict[str, FileRecord]:
        """The table of the documents that are there, with the number of their tokens that are."""
        table = DocumentWriter(self.folder / DOCUMENTS)
        kept = self.source.documents[present]
        for entry, n_tokens in zip(kept.itertuples(index=False), counts[present].tolist(), strict=True):
            label = entry.label if isinstance(entry.label, str) else None
            table.add(str(entry.id), str(entry.source), label, str(entry.split), n_tokens)
        table.commit()
        return {DOCUMENTS: file_record(self.folder / DOCUMENTS)}

    def write_activations(self, progress: Progress) -> dict[str, FileRecord]:
        """The shards of every layer that is kept."""
        layout, files = self._layout, dict[str, FileRecord]()
        encoded = {array.path for array in self.source.manifest.encoded_arrays()}
        progress.start("subset", layout.n_shards, "shards")
        for shard in range(layout.n_shards):
            rows, _, kept = self._shard(shard)
            linked = self._is_source_shard(shard, rows, kept)
            for layer, array in layout.activations.items():
                name = array.shard_path(shard)
                if linked and array.path not in encoded:
                    files |= self._link(name)
                    continue
                x = self.source.read(layer, rows)
                x[torch.from_numpy(~kept)] = 0
                bits = x.view(torch.uint16) if self.source.dtype == "bfloat16" else x
                files[name] = put(self.folder, name, *array.encode(bits.numpy()))
            progress.advance(1)
        return files

    def write_statistics(self) -> dict[str, FileRecord]:
        """Statistics of every layer: those of the source where all its sequences are kept as they are."""
        layout, files = self._layout, dict[str, FileRecord]()
        if self._whole:
            return self._link(*(name for layer in layout.layers for name in layout.statistics_paths(layer)))
        for layer, statistics in compute_statistics(self.folder, layout, layout.layers).items():
            again = statistics_files(layout, layer, statistics)
            files |= {name: put(self.folder, name, content) for name, content in again.items()}
        return files

    def _put_or_link(self, name: str, *parts: bytes | memoryview) -> dict[str, FileRecord]:
        record = FileRecord.of(*parts)
        if self.source.manifest.files.get(name) == record:
            return self._link(name)
        return {name: put(self.folder, name, *parts)}

    def _link(self, *names: str) -> dict[str, FileRecord]:
        """Make files of the source files of the new store: as another name of them, or else as a copy."""
        for name in names:
            original, target = self.source.path / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(original, target)
                sync_folder(target.parent)
            except OSError:  # another file system, or one without links
                put(self.folder, name, original.read_bytes())
        return {name: self.source.manifest.files[name] for name in names}
