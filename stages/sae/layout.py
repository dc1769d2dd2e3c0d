"""Where the tokens of a batch stand: in which document, and where in their stored row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from store.pairs import same_document


@dataclass(frozen=True)
class Layout:
    """Documents and positions of `[batch, seq]` tokens."""

    segments: Int[Tensor, "batch seq"]
    """Document of each token; negative where it belongs to none (BOS, padding)."""
    start: int
    """Position of the first token in its stored row."""

    @cached_property
    def keep(self) -> Bool[Tensor, "batch seq"]:
        """Whether a token belongs to a document."""
        return self.segments >= 0

    @cached_property
    def positions(self) -> Int[Tensor, " seq"]:
        """Position of each token in its stored row."""
        return torch.arange(self.start, self.start + self.segments.shape[1], device=self.segments.device)

    @cached_property
    def visible(self) -> Bool[Tensor, "batch seq seq"]:
        """[b, t, s]: whether s is a token of t's document, at t or before it."""
        return same_document(self.segments).tril()

    def reaches_back(self, lag: int) -> Bool[Tensor, "batch seq"]:
        """Whether the token `lag` before each one belongs to its document."""
        found = torch.zeros_like(self.keep)
        found[:, lag:] = (self.segments[:, lag:] == self.segments[:, :-lag]) & self.keep[:, lag:]
        return found

    def earlier(self, x: Float[Tensor, "batch seq d"], lag: int) -> Float[Tensor, "batch seq d"]:
        """What stands `lag` tokens before each one in its document; zero where the document does not reach."""
        if lag == 0:
            return x
        shifted = torch.zeros_like(x)
        inside = self.reaches_back(lag)[:, lag:, None]
        shifted[:, lag:] = x[:, :-lag].masked_fill(~inside, 0.0)
        return shifted


def layout_of(x: Float[Tensor, "batch seq d"], segments: Int[Tensor, "batch seq"] | None, start: int) -> Layout:
    """The layout of inputs; without segments they are one document a row, with BOS at position 0 of the stored row.

    Raises:
        ValueError: tokens without an order, `[n, d]`, or segments of another shape.
    """
    if x.ndim != 3:
        raise ValueError(
            f"This SAE uses the order of tokens: it needs inputs of shape [batch, seq, d_in], got {list(x.shape)}"
        )
    if segments is None:
        segments = torch.zeros(x.shape[:2], dtype=torch.int32, device=x.device)
        if start == 0:
            segments[:, 0] = -1
    if segments.shape != x.shape[:2]:
        raise ValueError(f"segments have the shape {list(segments.shape)}, inputs {list(x.shape[:2])}")
    return Layout(segments, start)
