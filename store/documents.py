"""The documents of a store: which split each belongs to, and `documents.parquet`."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from store.files import sync_folder, temporary_name, writing

SPLITS = ("train", "heldout")
ROW_GROUP = 8192
"""Documents in a row group of `documents.parquet`, and at most in memory while it is written."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("n_tokens", pa.int64()),
    ]
)


def split_of(text: str, heldout: float) -> str:
    """Split of a document, "train" or "heldout", by a hash of its normalised text: duplicates share it.

    The text is NFKC-normalised, case-folded and its white space collapsed. `heldout` is the share of
    documents, between 0 and 1, that are held out.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    sha256 = hashlib.sha256(" ".join(folded.split()).encode("utf-8", "surrogatepass")).digest()
    return "heldout" if int.from_bytes(sha256[:8], "big") < heldout * 2**64 else "train"


class DocumentWriter:
    """Writes `documents.parquet` row group by row group; the file appears when `commit` is called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = temporary_name(path)
        with writing(path):
            self._file = pq.ParquetWriter(self._temporary, SCHEMA)
        self._rows: list[dict[str, object]] = []
        self._is_train = bytearray()

    def add(self, id: str, source: str, label: str | None, split: str, n_tokens: int) -> int:
        """Append a document and return its row number, by which `document` refers to it."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}; a document is in one of {SPLITS}")
        self._rows.append({"id": id, "source": source, "label": label, "split": split, "n_tokens": n_tokens})
        self._is_train.append(split == "train")
        if len(self._rows) == ROW_GROUP:
            self._flush()
        return len(self._is_train) - 1

    @property
    def n_documents(self) -> int:
        """Documents so far."""
        return len(self._is_train)

    def in_train(self, documents: np.ndarray) -> np.ndarray:
        """bool, shaped as `documents`: whether each of these row numbers is in the train split."""
        return np.frombuffer(self._is_train, bool)[documents]

    def _flush(self) -> None:
        with writing(self._path):
            self._file.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows = []

    def commit(self) -> None:
        """Write what is left and move the file to its place."""
        if self._rows:
            self._flush()
        with writing(self._path):
            self._file.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
            sync_folder(self._path.parent)

    def discard(self) -> None:
        """Drop everything written so far."""
        with suppress(OSError):  # a full disk refuses the footer too
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def read_documents(path: Path) -> pd.DataFrame:
    """`documents.parquet` as a table with one row a document."""
    return pq.read_table(path).to_pandas()


def is_train(path: Path) -> np.ndarray:
    """bool [n_documents] from `documents.parquet`: whether each document is in the train split."""
    split = pq.read_table(path, columns=["split"]).column("split").to_numpy()
    return np.asarray(split == "train", bool)
