"""Writing the text of a store: token ids, document ids and the table of documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from store.documents import DocumentWriter
from store.files import file_sha256
from store.layout import DOCUMENTS, Layout
from store.limits import most_shards
from store.manifest import Manifest
from store.partial import put
from store.problem import Problem
from store.records import FileRecord


class SequenceWriter:
    """Takes packed rows in order and writes a shard whenever one is full, so memory stays flat.

    A context manager: leaving the block normally commits the sequences, an exception drops them.
    """

    def __init__(self, folder: Path, manifest: Manifest, commit: Callable[[int, dict[str, FileRecord]], None]) -> None:
        self._folder = folder
        self._manifest = manifest
        self._commit = commit
        self._records: dict[str, FileRecord] = {}
        self._documents = DocumentWriter(folder / DOCUMENTS)
        shape = (manifest.rows_per_shard, manifest.context)
        self._tokens, self._document = np.empty(shape, "<i4"), np.empty(shape, "<i4")
        self._n_rows = 0

    def add_document(self, id: str, source: str, label: str | None, split: str, n_tokens: int) -> int:
        """Append a document and return its row number, which is its id in `document`."""
        return self._documents.add(id, source, label, split, n_tokens)

    def add_rows(self, tokens: np.ndarray, document: np.ndarray) -> None:
        """Append packed rows: `tokens` and `document` int32 [n, context], document -1 at BOS and padding.

        Raises ValueError for another shape, a document that was not added, or a row that mixes splits.
        """
        tokens, document = np.asarray(tokens), np.asarray(document)
        self._check(tokens, document)
        done = 0
        while done < len(tokens):
            filled = self._n_rows % len(self._tokens)
            n = min(len(tokens) - done, len(self._tokens) - filled)
            self._tokens[filled : filled + n] = tokens[done : done + n]
            self._document[filled : filled + n] = document[done : done + n]
            self._n_rows += n
            done += n
            if filled + n == len(self._tokens):
                self._flush(filled + n)

    def _check(self, tokens: np.ndarray, document: np.ndarray) -> None:
        shape = (len(tokens), self._manifest.context)
        if tokens.shape != shape or document.shape != shape:
            raise ValueError(f"rows {tokens.shape} and {document.shape}, expected [n, {shape[1]}] twice")
        kept = document >= 0
        if document.max(initial=-1) >= self._documents.n_documents or document.min(initial=-1) < -1:
            raise ValueError("rows name a document that was not added")
        train = self._documents.in_train(np.where(kept, document, 0)) if kept.any() else kept
        if np.any((kept & train).any(axis=1) & (kept & ~train).any(axis=1)):
            raise ValueError("a row mixes documents of train and heldout")

    def _flush(self, n_rows: int) -> None:
        shard = (self._n_rows - 1) // len(self._tokens)
        if shard >= (most := most_shards(len(self._manifest.layers))):
            raise Problem(
                "The text is larger than one store can be: a manifest could not name all shards.",
                where=self._folder.absolute(),
                expected=f"{most * len(self._tokens) * self._manifest.context:,} tokens at the most",
                found="more",
                do="set corpus.tokens to less, or harvest fewer layers into one store",
            )
        layout = self._layout()
        for array, rows in ((layout.tokens, self._tokens), (layout.document, self._document)):
            name = array.shard_path(shard)
            self._records[name] = put(self._folder, name, *array.encode(rows[:n_rows]))

    def _layout(self) -> Layout:
        manifest = self._manifest
        return Layout(self._n_rows, manifest.context, manifest.rows_per_shard, manifest.dtype, manifest.layers)

    def __enter__(self) -> SequenceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or self._n_rows == 0:
            self._documents.discard()
            if kind is None:
                raise Problem(
                    "There is no text to store.",
                    where=self._folder.absolute(),
                    expected="at least one packed sequence",
                    found="none",
                    do="check the corpus",
                )
            return
        if self._n_rows % len(self._tokens):
            self._flush(self._n_rows % len(self._tokens))
        self._documents.commit()
        self._records[DOCUMENTS] = file_record(self._folder / DOCUMENTS)
        for name, content in self._layout().metadata().items():
            self._records[name] = put(self._folder, name, content)
        self._commit(self._n_rows, self._records)


def file_record(path: Path) -> FileRecord:
    """Record of a file that is already there."""
    return FileRecord(path.stat().st_size, file_sha256(path))
