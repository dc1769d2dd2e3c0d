"""Temporal metrics, written down literally: loops over lags, documents and pairs in float64. Slow, and independent
of the code it judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

SCALES = {"short": (1, 4), "medium": (5, 16), "long": (17, 127)}


def pairs_of(document: np.ndarray, lag: int) -> Iterator[tuple[int, int]]:
    """Row and first position of the pairs of one batch."""
    for row in range(document.shape[0]):
        for t in range(document.shape[1] - lag):
            if document[row, t] >= 0 and document[row, t] == document[row, t + lag]:
                yield row, t


def count_pairs(documents: list[np.ndarray]) -> list[int]:
    """By lag from 1."""
    return [sum(1 for d in documents for _ in pairs_of(d, lag)) for lag in range(1, documents[0].shape[1])]


def gather(h: list[np.ndarray], documents: list[np.ndarray], lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of all pairs, each [pairs, d]."""
    found = [(x[r, t], x[r, t + lag]) for x, d in zip(h, documents, strict=True) for r, t in pairs_of(d, lag)]
    if not found:
        return np.empty((0, h[0].shape[-1])), np.empty((0, h[0].shape[-1]))
    first, second = zip(*found, strict=True)
    return np.stack(first), np.stack(second)


def kept(h: list[np.ndarray], documents: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([x[d >= 0] for x, d in zip(h, documents, strict=True)])


def mean(values: list[float] | np.ndarray) -> float:
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()) if values.size else math.nan


def tcs(h: list[np.ndarray], documents: list[np.ndarray], used: dict[str, list[int]]) -> dict[str, float]:
    tokens = kept(h, documents)
    scores = {}
    for scale, lags in used.items():
        values = []
        for lag in lags:
            first, second = gather(h, documents, lag)
            for i in range(tokens.shape[1]):
                if tokens[:, i].std() > 0:
                    values.append(1 - np.mean((second[:, i] - first[:, i]) ** 2) / (2 * tokens[:, i].var()))
        scores[scale] = mean(values)
    return scores


def lags_used(documents: list[np.ndarray], min_pairs: int) -> dict[str, list[int]]:
    """By scale, those with enough pairs."""
    pairs = [0, *count_pairs(documents)]
    return {
        scale: [lag for lag in range(first, min(last, len(pairs) - 1) + 1) if pairs[lag] >= min_pairs]
        for scale, (first, last) in SCALES.items()
    }


def measure(h: list[np.ndarray], x: list[np.ndarray], documents: list[np.ndarray], min_pairs: int) -> dict[str, object]:
    """Everything in a measure of codes; `h` holds the counted latents only."""
    h = [np.asarray(a, np.float64) for a in h]
    a = [(b > 0).astype(np.float64) for b in h]
    n_pairs, used = [0, *count_pairs(documents)], lags_used(documents, min_pairs)
    tokens, firings = kept(h, documents), kept(a, documents).sum(0)
    mu, var = tokens.mean(0), tokens.var(0)
    correlation, weighted = [], []
    for lag in range(1, len(n_pairs)):
        first, second = gather(h, documents, lag)
        good = var > 0
        r = ((first - mu) * (second - mu)).mean(0)[good] / var[good] if len(first) else None
        enough = n_pairs[lag] >= min_pairs
        correlation.append(mean(r) if enough else math.nan)
        weighted.append(float((r * firings[good]).sum() / firings[good].sum()) if enough else math.nan)
    return {
        "latents": tokens.shape[1],
        "tokens": len(tokens),
        "tcs": tcs(h, documents, used),
        "tcs_binary": tcs(a, documents, used),
        "autocorrelation": correlation,
        "autocorrelation_firing_weighted": weighted,
        "slowness": 2 * (1 - tcs(h, documents, {"first": [1]})["first"]),
        "fsm_support": support(a, documents),
        "fsm_magnitude": magnitude(h, documents),
        "persistence": {
            str(lag): persistence(a, documents, lag) if lag < len(n_pairs) and n_pairs[lag] >= min_pairs else math.nan
            for lag in (1, 4, 16, 64)
        },
        "smoothness": smoothness(h, x, documents),
    }


def support(a: list, documents: list) -> float:
    first, second = gather(a, documents, 1)
    values = []
    for before, after in zip(first, second, strict=True):
        one, other = set(np.flatnonzero(before)), set(np.flatnonzero(after))
        if one | other:
            values.append(len(one & other) / len(one | other))
    return mean(values)


def magnitude(h: list, documents: list) -> float:
    first, second = gather(h, documents, 1)
    pairs = [(p, q) for p, q in zip(first.flatten(), second.flatten(), strict=True) if p > 0 and q > 0]
    return 1 - mean([abs(q - p) / (q + p) for p, q in pairs])


def persistence(a: list, documents: list, lag: int) -> float:
    first, second = gather(a, documents, lag)
    values = []
    for i in range(first.shape[1]):
        on, off = second[first[:, i] == 1, i], second[first[:, i] == 0, i]
        if len(on) and len(off):
            values.append(on.mean() - off.mean())
    return mean(values)


def smoothness(h: list, x: list, documents: list) -> float:
    sequences = []
    for codes, inputs, document in zip(h, x, documents, strict=True):
        for row in range(len(document)):
            for name in sorted(set(document[row]) - {-1}):
                here = document[row] == name
                f, y = codes[row][here], np.asarray(inputs[row][here], np.float64)
                if len(f) < 2 or not (f > 0).any():
                    continue
                steps = np.linalg.norm(y[1:] - y[:-1], axis=1)
                active = [i for i in range(f.shape[1]) if (f[:, i] > 0).any()]
                sequences.append(mean([max(abs(f[1:, i] - f[:-1, i]) / steps) for i in active]))
    return mean(sequences)
