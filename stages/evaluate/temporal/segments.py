"""Where the documents of a batch lie among its kept tokens."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.bootstrap import Draws
from stages.sae.products import Selection
from store.pairs import runs_of


class Segments:
    """The kept tokens of a batch in stored order, `n` in all, and the runs of them that share a row and a document.

    BOS and padding are not among them, so two tokens of one run lie as far apart here as in their row.
    """

    def __init__(
        self,
        document: Int[np.ndarray, "batch seq"],
        device: torch.device,
        sentence_ends: Bool[np.ndarray, "batch seq"] | None = None,
    ) -> None:
        """`document` is -1 at BOS and padding; `sentence_ends` is true at the tokens that end a sentence, None where
        no tokenizer says which do."""
        self.context = document.shape[1]
        self.device = device
        keep = document >= 0
        runs = runs_of(document) + self.context * np.arange(len(document))[:, None]
        self.positions = np.flatnonzero(keep)
        """int64 [n]: where the kept tokens are in the flattened batch."""
        _, first, lengths = np.unique(runs[keep], return_index=True, return_counts=True)
        self._lengths, stops = lengths, lengths.cumsum()
        self.documents = document[keep][first]
        """int [runs]: the document of every run."""
        self.spans = [(int(stop - length), int(stop)) for length, stop in zip(lengths, stops, strict=True)]
        """First token of every run, and the one after its last."""
        index = np.arange(len(self.positions))
        self.before = torch.as_tensor(index - np.repeat(stops - lengths, lengths), device=device)
        """int64 [n]: tokens of its run before each."""
        self.after = torch.as_tensor(np.repeat(stops, lengths) - 1 - index, device=device)
        """int64 [n]: tokens of its run after each."""
        ends = np.zeros(document.shape, dtype=bool) if sentence_ends is None else sentence_ends
        self._sentence_ends = torch.as_tensor(ends.flatten()[self.positions], device=device)

    @cached_property
    def pairs(self) -> Int[np.ndarray, "runs context"]:
        """By run and lag, the pairs of tokens so far apart; index 0 counts tokens."""
        return np.maximum(self._lengths[:, None] - np.arange(self.context), 0)

    @cached_property
    def draws(self) -> Draws:
        """How often each replicate of the bootstrap draws the runs."""
        return Draws(self.documents, self._lengths, self.device)

    def by_token(self, of_runs: Int[np.ndarray, " runs"]) -> Int[Tensor, " n"]:
        """By token, what its run has."""
        return torch.as_tensor(np.repeat(of_runs, self._lengths), device=self.device).long()

    def by_first(self, values: Float[Tensor, " n-1"]) -> Float[Tensor, " runs"]:
        """By run, the sum of what the pairs of a token and the next one have that begin in it; float64."""
        return self.draws.by_run(F.pad(values.double(), (0, 1)))

    def by_after(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "context d"]:
        """By number of tokens of its run after a token, the sum of h."""
        return self._by_after.scatter(h.new_ones(len(h)), h)

    def by_before(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "context d"]:
        """By number of tokens of its run before a token, the sum of h."""
        return self._by_before.scatter(h.new_ones(len(h)), h)

    @cached_property
    def _by_after(self) -> Selection:
        return Selection.of_rows(self.after[:, None], self.context)

    @cached_property
    def _by_before(self) -> Selection:
        return Selection.of_rows(self.before[:, None], self.context)

    @cached_property
    def adjacent(self) -> Bool[Tensor, " n-1"]:
        """Whether a token and the next one are of one run."""
        return self.before[1:] > 0

    @cached_property
    def sentence_boundary(self) -> Bool[Tensor, " n-1"]:
        """Whether a token ends a sentence that the next one of its run follows."""
        return self.adjacent & self._sentence_ends[:-1]

    @cached_property
    def document_boundary(self) -> Bool[Tensor, " n-1"]:
        """Whether a token and the next one are of two documents of one row."""
        row = torch.as_tensor(self.positions // self.context, device=self.device)
        return ~self.adjacent & (row[1:] == row[:-1])

    @cached_property
    def position(self) -> Int[Tensor, " n"]:
        """Where in its row each token stands."""
        return torch.as_tensor(self.positions % self.context, device=self.device)

    def kept(self, values: Float[Tensor, "batch seq d"]) -> Float[Tensor, "n d"]:
        """The values at kept tokens."""
        return values.flatten(0, 1).index_select(0, torch.as_tensor(self.positions, device=self.device))

    def order(self, permutation: Int[np.ndarray, "batch seq"]) -> Int[Tensor, " n"]:
        """A permutation within documents (`store.pairs`), as one of the kept tokens."""
        rows, columns = permutation.shape
        source = (permutation + columns * np.arange(rows)[:, None]).flatten()[self.positions]
        return torch.as_tensor(np.searchsorted(self.positions, source), device=self.device)
