"""Looking into activations: norms of tokens, outlier dimensions, and tokens of unusually large norm."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32

from store.progress import SILENT, Progress
from store.reader import ActivationStore
from store.statistics import Statistics

SEQUENCES = 1024
"""Sequences that a survey reads, evenly spread over the store."""
SINK = 5.0
"""A norm of more than so many medians makes a token an attention sink."""


@dataclass(frozen=True)
class Survey:
    """What was seen in some sequences of a layer."""

    rows: np.ndarray
    """int64 [n]: the sequences."""
    norms: Float64[np.ndarray, "n context"]
    """Euclidean norm of every vector; NaN or infinity where it has such a value."""
    tokens: Int32[np.ndarray, "n context"]
    """Token ids."""
    n_not_finite: int
    """Numbers that are NaN or infinity."""

    @property
    def median(self) -> float:
        """Median norm; NaN where none is finite."""
        finite = self.norms[np.isfinite(self.norms)]
        return float(np.median(finite)) if finite.size else float("nan")

    @property
    def sinks(self) -> np.ndarray:
        """bool [n, context]: the tokens whose norm is more than `SINK` medians."""
        return np.isfinite(self.norms) & (self.norms > SINK * self.median)

    def sink_positions(self) -> list[tuple[int, int]]:
        """(position, number of sinks there), the most frequent first."""
        return Counter(np.nonzero(self.sinks)[1].tolist()).most_common()

    def sink_tokens(self) -> list[tuple[int, int]]:
        """(token id, number of sinks with it), the most frequent first."""
        return Counter(self.tokens[self.sinks].tolist()).most_common()


def survey(store: ActivationStore, layer: int, n_rows: int = SEQUENCES, progress: Progress = SILENT) -> Survey:
    """Read `n_rows` sequences of a layer, or all if there are fewer, one at a time from the memory map."""
    n_rows = min(n_rows, store.n_sequences)
    rows = np.linspace(0, store.n_sequences - 1, n_rows).round().astype(np.int64)
    norms, n_not_finite = np.empty((n_rows, store.context)), 0
    progress.start(f"layer {layer}", n_rows, "sequences")
    for i, row in enumerate(rows.tolist()):
        x = vectors(store, layer, row)
        norms[i] = token_norms(x)
        n_not_finite += int(np.count_nonzero(~np.isfinite(x)))
        progress.advance(1)
    return Survey(rows, norms, store.tokens(rows), n_not_finite)


def vectors(store: ActivationStore, layer: int, row: int) -> Float64[np.ndarray, "context d"]:
    """The activations of one sequence as float64."""
    return store.window(layer, row).double().numpy()


@np.errstate(invalid="ignore", over="ignore")
def token_norms(x: Float64[np.ndarray, "context d"]) -> Float64[np.ndarray, " context"]:
    """Euclidean norm of each vector."""
    return np.sqrt(np.einsum("td,td->t", x, x))


def largest_means(statistics: Statistics, n: int = 8) -> list[tuple[int, float]]:
    """(dimension, mean) of the `n` dimensions whose mean is farthest from 0, the farthest first."""
    order = np.argsort(-np.abs(statistics.mean), kind="stable")[:n]
    return [(int(i), float(statistics.mean[i])) for i in order]


def largest_variances(statistics: Statistics, n: int = 8) -> list[tuple[int, float]]:
    """(dimension, share of all variance) of the `n` dimensions that vary most, the largest first."""
    order = np.argsort(-statistics.variance, kind="stable")[:n]
    total = statistics.variance.sum() or 1.0
    return [(int(i), float(statistics.variance[i] / total)) for i in order]
