"""Shuffled batches of windows: a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from store.pairs import pair_mask, runs_of
from store.problem import Problem

if TYPE_CHECKING:
    from store.reader import ActivationStore


class WindowBatch(NamedTuple):
    """A batch of whole sequences, token order kept."""

    x: Float[Tensor, "batch context d"]
    """Activations in storage type."""
    document: Int32[Tensor, "batch context"]
    """Document of each token; -1 at BOS and padding."""
    tokens: Int32[Tensor, "batch context"]
    """Token ids."""
    rows: Int64[np.ndarray, " batch"]
    """Sequences of the store that these are."""

    def pair_mask(self, first: int, last: int) -> Bool[Tensor, "batch context context"]:
        """True at [b, t, s] where s lies `first` to `last` positions before t in the same document."""
        return pair_mask(self.document, first, last)

    def split(self) -> RaggedBatch:
        """The same tokens as windows that lie within one document each: BOS and padding are left out."""
        document = self.document.cpu().numpy()
        kept = document >= 0
        runs = runs_of(document) + np.arange(len(document))[:, None] * document.shape[1]
        _, first, lengths = np.unique(runs[kept], return_index=True, return_counts=True)
        row, position = (places[first] for places in kept.nonzero())
        mask = torch.from_numpy(kept).to(self.x.device)
        return RaggedBatch(
            self.x[mask],
            self.tokens[mask],
            torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
            torch.from_numpy(document[row, position]),
            self.rows[row],
            position,
        )


class RaggedBatch(NamedTuple):
    """Windows of different lengths, each within one document, back to back and in token order."""

    x: Float[Tensor, "tokens d"]
    """Activations in storage type."""
    tokens: Int32[Tensor, " tokens"]
    """Token ids."""
    offsets: Int64[Tensor, " windows+1"]
    """Window i is `x[offsets[i] : offsets[i + 1]]`."""
    document: Int32[Tensor, " windows"]
    """The document that each window is part of."""
    rows: Int64[np.ndarray, " windows"]
    """Sequence of the store that each window lies in."""
    start: Int64[np.ndarray, " windows"]
    """Position in that sequence at which it begins."""

    def windows(self) -> Iterator[Float[Tensor, "length d"]]:
        """Each window as a view."""
        return iter(self.x.split(self.offsets.diff().tolist()))


class Windows:
    """Batches of one layer and split. Every epoch is a fresh permutation of the split's sequences, cut into
    batches; the sequences that do not fill a batch are left out of that epoch.

    Reading has no state: `batch(step)` is the same whatever was read before, so resuming needs only `step`.
    """

    def __init__(self, store: ActivationStore, layer: int, split: str, batch_rows: int, seed: int) -> None:
        """Raises Problem when the split has fewer sequences than a batch."""
        if batch_rows < 1:
            raise Problem("A batch needs rows.", expected="batch_rows >= 1", found=batch_rows, usage=True)
        self._store = store
        self._layer = layer
        self._rows = store.rows(split)
        self._batch_rows = batch_rows
        self._seed = seed
        self._shuffled = (-1, self._rows)
        if self.batches_per_epoch == 0:
            raise Problem(
                f"The {split} split of this store is smaller than one batch.",
                where=store.path.absolute(),
                expected=f"at least {batch_rows} sequences",
                found=f"{self.n_rows} sequences of {store.context} tokens",
                do="harvest more text, or use smaller batches",
            )

    @property
    def n_rows(self) -> int:
        """Sequences of the split."""
        return len(self._rows)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the split."""
        return self.n_rows // self._batch_rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a batch's activations: rows, context, width."""
        return self._batch_rows, self._store.context, self._store.layers[self._layer]

    @property
    def dtype(self) -> torch.dtype:
        """Of a batch's activations."""
        return self._store.torch_dtype

    def batch(self, step: int, out: Float[Tensor, "batch context d"] | None = None) -> WindowBatch:
        """Batch number `step` >= 0: in memory of its own, or with x in `out` where given.

        A loop that passes the same `out` every step saves the page faults of fresh memory, which can cost
        more than the copy itself.
        """
        if step < 0:
            raise IndexError(f"batch {step}")
        epoch, i = divmod(step, self.batches_per_epoch)
        rows = self._permutation(epoch)[i * self._batch_rows : (i + 1) * self._batch_rows]
        return WindowBatch(
            self._store.read(self._layer, rows, out),
            torch.from_numpy(self._store.document(rows)),
            torch.from_numpy(self._store.tokens(rows)),
            rows,
        )

    def _permutation(self, epoch: int) -> np.ndarray:
        """Order of an epoch. The last one is kept, as one tuple so that threads may share these windows."""
        shuffled_epoch, order = self._shuffled
        if epoch != shuffled_epoch:
            order = np.random.Generator(np.random.PCG64([self._seed, epoch])).permutation(self._rows)
            self._shuffled = (epoch, order)
        return order
