"""Text to rows of tokens: tokenise documents, pack them into rows of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerBase

from stages.language_model.corpus import Document
from stages.language_model.quiet import quiet
from store.documents import SPLITS, split_of

Packing = Literal["concat", "per_document"]
Rows = tuple[Int32[np.ndarray, "rows context"], Int32[np.ndarray, "rows context"]]
"""Token ids, and the document that each position belongs to (-1 at BOS and padding)."""

BATCH = 256
"""Documents tokenised at once."""
NOWHERE = -1
"""The document of a BOS or padding position."""


@dataclass(frozen=True)
class PackedDocument:
    """What the table of documents says of one document."""

    id: str
    """As in the corpus."""
    source: str
    """The corpus."""
    label: str
    """Its topic, if the corpus has one."""
    split: str
    """`train` or `heldout`, by a hash of its text."""
    n_tokens: int
    """How many of its tokens are in the rows."""


@dataclass(frozen=True)
class Packed:
    """A step of packing: documents taken in, and the rows that they completed.

    Documents are numbered from 0 in the order in which they come; rows hold these numbers.
    """

    documents: list[PackedDocument]
    """New documents."""
    tokens: Int32[np.ndarray, "rows context"]
    """Token ids of the completed rows."""
    document: Int32[np.ndarray, "rows context"]
    """Number of the document of each position, -1 at BOS and padding."""


def packed(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int,
    packing: Packing,
    heldout: float,
    bos_id: int,
    pad_id: int,
    limit: int | None = None,
) -> Iterator[Packed]:
    """Tokenise and pack a corpus step by step; see `Packer`. `heldout` is the share of held-out documents."""
    packer = Packer(context, packing, bos_id, pad_id, limit)
    stream = tokenise(documents, tokenizer)
    while not packer.full and (batch := list(islice(stream, BATCH))):
        taken, rows = [], []
        for document, ids in batch:
            split = split_of(document.text, heldout)
            n_tokens, complete = packer.add(ids, split)
            if n_tokens:
                taken.append(PackedDocument(document.id, document.source, document.label, split, n_tokens))
                rows.append(complete)
            if packer.full:
                break
        if taken:
            yield Packed(taken, *_joined(rows))
    tokens, numbers = packer.finish()
    if len(tokens):
        yield Packed([], tokens, numbers)


def tokenise(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Document, Int32[np.ndarray, " tokens"]]]:
    """Token ids of each document, without special tokens: text that spells one out stays text.

    Documents that come to no token at all are left out.
    """
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        with quiet():  # a document longer than the model's context is no mistake here
            encoded = tokenizer(
                [document.text for document in batch],
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
            )
        for document, ids in zip(batch, encoded["input_ids"], strict=True):
            if ids:
                yield document, np.array(ids, dtype=np.int32)


class Packer:
    """Pack tokenised documents into rows of `context` positions, each split into rows of its own.

    Position 0 of every row is BOS. `concat` puts documents one after another with one BOS between them, as
    SAELens and TransformerLens do; a document may go on in the next row. `per_document` gives each document
    one row, cut at its end or padded. With a `limit`, packing stops at ceil(limit / context) rows, the
    unfinished ones included, and the last document is cut to fit.
    """

    def __init__(self, context: int, packing: Packing, bos_id: int, pad_id: int, limit: int | None = None) -> None:
        self.bos_id, self.pad_id = bos_id, pad_id
        self.body = context - 1
        """Positions of a row behind its BOS."""
        self.one_per_row = packing == "per_document"
        self.rows_left = None if limit is None else -(-limit // context)
        self.full = False
        """A document did not fit, or not all of it: the limit is reached."""
        self._n_documents = 0
        self._pending: dict[str, Rows] = {split: (np.empty(0, np.int32), np.empty(0, np.int32)) for split in SPLITS}

    def add(self, ids: Int32[np.ndarray, " tokens"], split: str) -> tuple[int, Rows]:
        """Pack one document into rows of `split`.

        Returns how many of its tokens went in, and the rows that it completed. A document of which a token
        went in takes the next number, counted from 0.
        """
        tokens, numbers = self._pending[split]
        bos = np.full(int(len(tokens) > 0), self.bos_id, np.int32)
        ids = self._fitting(ids, split, len(tokens) + len(bos))
        if len(ids) > 0:
            own = np.full(len(ids), self._n_documents, np.int32)
            self._n_documents += 1
            tokens = np.concatenate([tokens, bos, ids])
            numbers = np.concatenate([numbers, np.full_like(bos, NOWHERE), own])
        rows, self._pending[split] = self._cut(tokens, numbers, pad=self.one_per_row)
        if self.rows_left is not None:
            self.rows_left -= len(rows[0])
        return len(ids), rows

    def finish(self) -> Rows:
        """The unfinished row of each split, padded."""
        return _joined([self._cut(*pending, pad=True)[0] for pending in self._pending.values()])

    def _fitting(self, ids: np.ndarray, split: str, used: int) -> np.ndarray:
        """As much of a document as fits behind `used` positions of its split's unfinished row."""
        if self.one_per_row:
            ids = ids[: self.body]
        if self.rows_left is None:
            return ids
        others = sum(len(tokens) > 0 for name, (tokens, _) in self._pending.items() if name != split)
        room = max(0, (self.rows_left - others) * self.body - used)
        self.full = room < len(ids)
        return ids[:room]

    def _cut(self, tokens: np.ndarray, numbers: np.ndarray, pad: bool) -> tuple[Rows, Rows]:
        """Whole rows, each with BOS put before it, and what is left over (nothing with `pad`)."""
        if pad:
            missing = -len(tokens) % self.body
            tokens = np.pad(tokens, (0, missing), constant_values=self.pad_id)
            numbers = np.pad(numbers, (0, missing), constant_values=NOWHERE)
        whole = len(tokens) // self.body * self.body
        rows = (
            np.pad(tokens[:whole].reshape(-1, self.body), ((0, 0), (1, 0)), constant_values=self.bos_id),
            np.pad(numbers[:whole].reshape(-1, self.body), ((0, 0), (1, 0)), constant_values=NOWHERE),
        )
        return rows, (tokens[whole:], numbers[whole:])


def complete_rows(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, packer: Packer) -> Iterator[Rows]:
    """Pack documents of one split; as they come, the rows that they fill. The unfinished one is left out."""
    for _, ids in tokenise(documents, tokenizer):
        _, rows = packer.add(ids, SPLITS[0])
        if len(rows[0]):
            yield rows
        if packer.full:
            return


def _joined(rows: list[Rows]) -> Rows:
    return np.concatenate([tokens for tokens, _ in rows]), np.concatenate([numbers for _, numbers in rows])
