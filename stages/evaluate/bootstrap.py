"""The bootstrap over documents: how often each replicate draws each document.

The tokens of a document depend on each other, those of two documents hardly, so documents are what is drawn, each as
often as a Poisson variable of mean 1 says (the Poisson bootstrap; Hanley and MacGibbon 2006): nothing has to be known
of the other documents, and running sums are enough. The numbers follow from a document's number in its store and from
nothing else. So every SAE, every measure and every evaluation on one store draws the same documents in the same
replicate, and replicates of two numbers can be subtracted: what both owe to the documents cancels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

REPLICATES = 200
"""They tell a standard error to 5 %, 1 / sqrt(2 * 200)."""
SEED = 0
"""Of the draws, with the number of a document."""
NO_REPLICATES = np.full(REPLICATES, math.nan)
"""Of a number that does not exist."""


def drawn(documents: Int[np.ndarray, " n"]) -> Int[np.ndarray, "replicates n"]:
    """How often each replicate draws each of some documents."""
    found = np.empty((REPLICATES, len(documents)), dtype=np.int64)
    for i, document in enumerate(documents.tolist()):
        found[:, i] = np.random.default_rng([SEED, document]).poisson(1, REPLICATES)
    return found


class Draws:
    """The documents of some tokens, which stand run by run of one document, and how often each replicate draws them."""

    def __init__(
        self, documents: Int[np.ndarray, " runs"], lengths: Int[np.ndarray, " runs"], device: torch.device
    ) -> None:
        """The document of each run, and its tokens; several runs may be of one document."""
        self.weights: Float[Tensor, "replicates runs"] = torch.as_tensor(drawn(documents), device=device).double()
        """How often each replicate draws a run."""
        self._lengths = torch.as_tensor(lengths, device=device)

    @classmethod
    def of(cls, document: Int[np.ndarray, " n"], device: torch.device) -> Draws:
        """Of tokens whose documents these are."""
        starts = np.flatnonzero(np.diff(document, prepend=-1))
        return cls(document[starts], np.diff(starts, append=len(document)), device)

    def by_run(self, values: Float[Tensor, "n ..."]) -> Float[Tensor, "runs ..."]:
        """By run, the sum of what its tokens have; float64."""
        return torch.segment_reduce(values.double(), "sum", lengths=self._lengths)


class Sums:
    """Running sums over what runs of tokens have, of the sample and of every replicate; float64."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.sample = torch.zeros(columns, dtype=torch.float64, device=device)
        self.replicates = torch.zeros(REPLICATES, columns, dtype=torch.float64, device=device)

    def add(self, by_run: Float[Tensor, "runs columns"], draws: Draws) -> None:
        """Add one batch."""
        self.sample += by_run.sum(dim=0)
        self.replicates += draws.weights @ by_run


class Ratio:
    """The ratio of two running sums."""

    def __init__(self, device: torch.device) -> None:
        self._sums = Sums(2, device)

    def add(self, numerator: Float[Tensor, " runs"], denominator: Float[Tensor, " runs"], draws: Draws) -> None:
        """Add to both sums what each run of one batch has."""
        self._sums.add(torch.stack([numerator.double(), denominator.double()], dim=1), draws)

    @property
    def value(self) -> float:
        """The ratio; NaN where nothing divides."""
        numerator, denominator = self._sums.sample.tolist()
        return numerator / denominator if denominator else math.nan

    @property
    def replicates(self) -> Float[np.ndarray, " replicates"]:
        """The ratio in each replicate; not finite in one where nothing divides."""
        numerator, denominator = self._sums.replicates.unbind(dim=1)
        return (numerator / denominator).cpu().numpy()
