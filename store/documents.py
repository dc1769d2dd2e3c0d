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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.files import sync_folder, temporary_name, writing
from store.footer import Claims, read_claims
from store.problem import Problem

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
CODECS = {"SNAPPY", "UNCOMPRESSED"}
"""How pages may be compressed: at most some twenty times."""
FEW_ROWS, FEW_BYTES, EXPANSION = 2**20, 2**28, 256
"""Of any table that is read; larger ones have a row a byte at most, and `EXPANSION` bytes of text."""


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


def read_documents(content: bytes | Path) -> pd.DataFrame:
    """`documents.parquet`, its bytes or its path, as a table with one row a document.

    Raises Problem for what is no such file, or would take far more memory than it takes on disk.
    """
    return _table(content, SCHEMA.names).to_pandas()


def is_train(content: bytes | Path) -> np.ndarray:
    """bool [n_documents] from `documents.parquet`, its bytes or its path: whether each is in the train split."""
    split = _table(content, ["split"]).column("split")
    return np.asarray(pc.equal(split, SPLITS[0]), bool)


def in_train(document: np.ndarray, train: np.ndarray) -> np.ndarray:
    """bool, shaped as `document`: whether a position holds a token of the train split.

    `train` is what `is_train` returned. Raises Problem for documents that the table does not have.
    """
    if document.max(initial=-1) >= len(train):
        raise Problem(
            "The tokens of this store belong to documents that its table does not have.",
            expected=f"numbers below {len(train)}",
            found=int(document.max()),
            do="get the store again from its source; this one is damaged, or not to be trusted",
        )
    kept = document >= 0
    return kept & train[np.where(kept, document, 0)] if kept.any() else kept


def _table(content: bytes | Path, columns: list[str]) -> pa.Table:
    """Some columns of the table. Text is read as numbers of distinct values, and written out once its size is known."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    texts = [field.name for field in SCHEMA if field.type == pa.string()]
    try:
        whole = content if isinstance(content, bytes) else content.read_bytes()
        _check_claims(read_claims(whole), size)
        with pq.ParquetFile(pa.BufferReader(whole), read_dictionary=texts) as file:
            if not file.schema.to_arrow_schema().equals(SCHEMA):
                raise ValueError("other columns or types")
            encoded = file.read(columns)
        encoded.validate(full=True)
        spelled_out = sum(_text_bytes(encoded.column(name)) for name in columns if name in texts)
        if spelled_out > max(FEW_BYTES, EXPANSION * size):
            raise ValueError("far more text than the file has bytes")
        table = encoded.cast(schema)
        _check_values(table)
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise Problem(
            "The table of documents cannot be read.",
            where=content.absolute() if isinstance(content, Path) else "documents.parquet",
            expected=f"a Parquet file with the columns {', '.join(SCHEMA.names)}",
            found=str(error),
            do="get the store again from its source; this one is damaged, or not to be trusted",
        ) from None
    return table


def _check_claims(claims: Claims, size: int) -> None:
    """Refuse codecs without bound, and more rows than so many bytes can hold."""
    if not claims.codecs <= CODECS:
        raise ValueError(f"pages compressed by {', '.join(sorted(claims.codecs))}")
    if max(claims.n_rows, sum(claims.group_rows)) > max(FEW_ROWS, size):
        raise ValueError(f"{claims.n_rows:,} rows in {size:,} bytes")


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column of text once each row has its own."""
    lengths = [pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    return sum(pc.sum(chunk.cast(pa.int64())).as_py() or 0 for chunk in lengths)


def _check_values(table: pa.Table) -> None:
    for name in table.column_names:
        if name != "label" and table.column(name).null_count:
            raise ValueError(f"rows without {name}")
    if "split" in table.column_names and not pc.all(pc.is_in(table.column("split"), pa.array(SPLITS))).as_py():
        raise ValueError(f"a split that is none of {', '.join(SPLITS)}")
    if "n_tokens" in table.column_names and pc.any(pc.less(table.column("n_tokens"), 0)).as_py():
        raise ValueError("a document of less than no tokens")
