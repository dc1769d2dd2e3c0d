"""Text to forget and text to retain, as rows of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int32
from torch import Tensor

from stages.language_model.corpus import Document
from stages.language_model.model import LanguageModel
from stages.language_model.tokens import Packer, complete_rows
from stages.unlearn.lines import read_lines
from store.problem import Problem

SHORTEST = 50
"""Characters below which a text says nothing, as in SAEBench."""


class Batch(NamedTuple):
    """Some rows."""

    tokens: Int[Tensor, "batch seq"]
    """Token ids."""
    segments: Int[Tensor, "batch seq"]
    """Number of the document, -1 at BOS and padding."""


@dataclass(frozen=True)
class Rows:
    """Packed text."""

    tokens: Int32[np.ndarray, "rows context"]
    """Token ids, BOS at position 0 and between documents."""
    segments: Int32[np.ndarray, "rows context"]
    """Number of the document, -1 at BOS and padding."""

    @property
    def n_tokens(self) -> int:
        """Tokens of documents."""
        return int((self.segments >= 0).sum())

    def parted(self, n: int) -> tuple[Rows, Rows]:
        """The first n, or half of them where that is less, and the others.

        Raises:
            Problem: there is one row alone.
        """
        if len(self.tokens) < 2:
            raise Problem(
                "There is too little text to unlearn with.",
                expected="two rows of each text: one on which the loss is measured, and another",
                found=f"{len(self.tokens)} of {self.tokens.shape[1]} tokens",
                do="give more text",
            )
        n = min(n, len(self.tokens) // 2)
        return Rows(self.tokens[:n], self.segments[:n]), Rows(self.tokens[n:], self.segments[n:])

    def batches(self, size: int) -> Iterator[Batch]:
        """All of them, in order."""
        for start in range(0, len(self.tokens), size):
            part = slice(start, start + size)
            yield Batch(torch.from_numpy(self.tokens[part]).long(), torch.from_numpy(self.segments[part]))


def read_texts(path: Path) -> list[str]:
    """Texts of a JSONL file, `{"text"}` a line, that are longer than 50 characters.

    Raises:
        Problem: it cannot be read, a line is wrong, or nothing is long enough.
    """
    texts = [_text(row, where) for row, where in read_lines(path, "text")]
    long = [text for text in texts if len(text) > SHORTEST]
    if not long:
        raise Problem(
            "A file of texts has none to read.",
            where=path,
            expected=f"texts of more than {SHORTEST} characters",
            found=f"{len(texts)} texts",
        )
    return long


def _text(row: Any, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise Problem(
            "This is no text.", where=where, expected='{"text": text}', found=json.dumps(row, ensure_ascii=False)[:80]
        )
    return str(row["text"])


def pack(texts: Sequence[str], lm: LanguageModel, context: int, n_rows: int, seed: int) -> Rows:
    """Texts in random order, packed into rows of `context` tokens, no more than `n_rows`.

    Raises:
        Problem: they do not fill one row.
    """
    order = np.random.default_rng(seed).permutation(len(texts))
    packer = Packer(context, "concat", lm.bos_id, lm.pad_id, limit=n_rows * context)
    found = list(complete_rows((Document(str(i), texts[i], "") for i in order), lm.tokenizer, packer))
    if not found:
        raise Problem(
            "The text gives no full sequence.",
            expected=f"at least {context - 1} tokens",
            found=f"fewer, in {len(texts)} texts",
            do="give more text",
        )
    tokens, segments = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Rows(tokens, segments)
