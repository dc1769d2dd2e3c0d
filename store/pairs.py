"""Order within documents: positions of a window that share one, and permutations that stay inside it.

BOS and padding (document -1) belong to no document and pair with nothing. Documents are contiguous in a sequence.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def runs_of(document: Int[np.ndarray, "batch seq"]) -> Int[np.ndarray, "batch seq"]:
    """For each position the number of its run of equal documents, counted from 0 in every row."""
    starts = np.ones(document.shape, dtype=bool)
    starts[:, 1:] = document[:, 1:] != document[:, :-1]
    return starts.cumsum(axis=1) - 1


def permutation_within_documents(
    document: Int[np.ndarray, "batch seq"], rng: np.random.Generator
) -> Int[np.ndarray, "batch seq"]:
    """Random positions to read from, each within the same document: `np.take_along_axis(x, positions, 1)`.

    Documents stay where they are and keep their tokens; only the order inside them is lost. Every order of
    a document is equally likely.
    """
    return np.argsort(runs_of(document) + rng.random(document.shape), axis=1)


def pairs_by_lag(document: Int[np.ndarray, "batch seq"]) -> Int[np.ndarray, " seq"]:
    """At index `lag`, how many pairs of kept positions lie so far apart within one document; index 0 counts tokens."""
    kept = document >= 0
    counts = np.zeros(document.shape[1], dtype=np.int64)
    counts[0] = kept.sum()
    for lag in range(1, document.shape[1]):
        counts[lag] = (kept[:, lag:] & (document[:, lag:] == document[:, :-lag])).sum()
    return counts


def same_document(document: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq seq"]:
    """True at [b, t, s] where positions s and t share a document."""
    return (document[:, :, None] == document[:, None, :]) & (document >= 0)[:, :, None]


def pair_mask(document: Int[Tensor, "batch seq"], first: int, last: int) -> Bool[Tensor, "batch seq seq"]:
    """True at [b, t, s] where position s lies `first` to `last` places before t in the same document.

    Each pair of positions is one entry: the sum of the mask is the number of pairs.
    """
    positions = torch.arange(document.shape[1], device=document.device)
    lag = positions[:, None] - positions[None, :]
    return same_document(document) & (lag >= first) & (lag <= last)
