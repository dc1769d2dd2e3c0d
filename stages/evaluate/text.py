"""Text packed as SAEBench packs it, over which the language model runs as rows are read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from stages.evaluate.batches import FEWEST_ROWS
from stages.language_model.config import CorpusConfig
from stages.language_model.corpus import documents
from stages.language_model.model import LanguageModel
from stages.language_model.splice import Splice
from stages.language_model.tokens import Packer, complete_rows
from store.problem import Problem


@dataclass(frozen=True)
class PackedText:
    """Full rows of tokens in the order of the text, as SAELens's `ActivationsStore` makes them for SAEBench.

    BOS is at position 0 and between documents, documents run on from row to row, and the unfinished last row is left
    out. Text that spells out a special token stays text, of which the tokenizer that SAELens calls makes the token.
    """

    lm: LanguageModel
    """What runs over it."""
    splices: dict[int, Splice]
    """The same, by layer that is read."""
    all_tokens: Int32[np.ndarray, "rows context"]
    """Token ids."""
    all_documents: Int32[np.ndarray, "rows context"]
    """Number of the document of each token; -1 at BOS."""

    @classmethod
    def pack(cls, lm: LanguageModel, layers: Collection[int], text: CorpusConfig, context: int) -> PackedText:
        """Tokenise and pack a text.

        Raises:
            Problem: it cannot be read, or does not fill enough rows.
        """
        packer = Packer(context, "concat", lm.bos_id, lm.pad_id, text.tokens)
        empty = np.empty((0, context), np.int32)
        parts = [(empty, empty), *complete_rows(documents(text), lm.tokenizer, packer)]
        tokens, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
        if len(tokens) < FEWEST_ROWS:
            raise Problem(
                "The text gives too few full sequences to evaluate on.",
                where=text.source,
                expected=f"at least {FEWEST_ROWS} of {context} tokens, BOS included",
                found=len(tokens) or "no full sequence",
                do="give more text",
            )
        return cls(lm, {layer: Splice(lm, layer) for layer in layers}, tokens, numbers)

    @property
    def layers(self) -> dict[int, int]:
        """Layer -> width d of its residual stream."""
        return dict.fromkeys(self.splices, self.lm.d_model)

    def __len__(self) -> int:
        """Rows."""
        return len(self.all_tokens)

    def tokens(self, rows: np.ndarray) -> Int32[np.ndarray, "n context"]:
        """Token ids of some rows."""
        return self.all_tokens[rows]

    def document(self, rows: np.ndarray) -> Int32[np.ndarray, "n context"]:
        """Number of the document of each token; -1 at BOS."""
        return self.all_documents[rows]

    def read(self, layer: int, rows: np.ndarray) -> Float[Tensor, "n context d"]:
        """The residual stream after a layer, computed now."""
        return self.splices[layer].resid(torch.from_numpy(self.all_tokens[rows]))
