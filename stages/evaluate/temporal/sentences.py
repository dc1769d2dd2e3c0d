"""Where sentences end, by the texts of the tokens alone."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

END = re.compile(r"[.!?][\"'\u2019\u201d)\]]*$")
SPACE = ("▁", "Ġ", "Ċ", " ", "\n")
"""How tokens begin that follow a space or begin a line, as SentencePiece, byte-level BPE and plain text write it."""


class SentenceEnds:
    """A token ends a sentence if its text ends with `.`, `!` or `?` (and closing marks) and a space or a line's end
    comes next. That takes the point of an abbreviation for an end, but not that of a number or of initials."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        texts = [str(text) for text in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        self._ends = np.array([END.search(text) is not None for text in texts])
        self._spaced = np.array([text.startswith(SPACE) for text in texts])

    def __call__(self, tokens: Int[np.ndarray, "batch seq"]) -> Bool[np.ndarray, "batch seq"]:
        """True at the last token of a sentence; never at the last of a row, which nothing follows."""
        found = np.zeros(tokens.shape, dtype=bool)
        found[:, :-1] = self._ends[tokens[:, :-1]] & self._spaced[tokens[:, 1:]]
        return found
