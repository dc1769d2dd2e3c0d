"""Patterns of activation, written down literally: loops over documents, latents and pairs in float64. Slow, and
independent of the code it judges. `h` and documents are lists of batches `[rows, context, d]` and `[rows, context]`.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np

from tests.evaluate.temporal.temporal_literal import gather, kept, mean, pairs_of


def stretches(documents: list[np.ndarray]) -> list[tuple[int, int, int, int]]:
    """Batch, row, first position and the one behind the last, of every document in every row."""
    found = []
    for b, document in enumerate(documents):
        for row in range(len(document)):
            for name in dict.fromkeys(document[row].tolist()):
                if name >= 0:
                    where = np.flatnonzero(document[row] == name)
                    found.append((b, row, int(where[0]), int(where[-1]) + 1))
    return found


def runs(a: list[np.ndarray], documents: list[np.ndarray], latent: int) -> list[tuple[int, bool]]:
    """Length of every run, and whether the document's end cut it."""
    found = []
    for b, row, start, stop in stretches(documents):
        length = 0
        for t in range(start, stop):
            if a[b][row, t, latent]:
                length += 1
                if t == stop - 1 or not a[b][row, t + 1, latent]:
                    found.append((length, t == stop - 1))
                    length = 0
    return found


def kaplan_meier(found: list[tuple[int, bool]], horizon: int) -> float:
    if not found:
        return math.nan
    alive, total = 1.0, 0.0
    for age in range(horizon):
        total += alive
        at_risk = sum(1 for length, cut in found if length - cut >= age + 1)
        ended = sum(1 for length, cut in found if length == age + 1 and not cut)
        alive *= 1 - (ended / at_risk if at_risk else 0)
    return total


def lifetime_ratio(a: list, documents: list, horizon: int) -> np.ndarray:
    density = kept(a, documents).mean(0)
    found = []
    for i, p in enumerate(density):
        found.append(kaplan_meier(runs(a, documents, i), horizon) / sum(p**k for k in range(horizon)))
    return np.array(found)


def integrated_time(correlation: np.ndarray) -> float:
    """Of one latent, by lag from 1."""
    total = 1.0
    for r in correlation:
        if not r > 0:
            break
        total += 2 * r
    return total


def autocorrelation(h: list, documents: list, lag: int, latent: int) -> float:
    tokens = kept(h, documents)[:, latent]
    first, second = (ends[:, latent] - tokens.mean() for ends in gather(h, documents, lag))
    return float((first * second).mean() / tokens.var())


def banded(h: list, documents: list, lag: int, band: tuple[int, int], least: int) -> float:
    """Mean over latents, of the pairs whose later token is in the band."""
    tokens = kept(h, documents)
    mu, var = tokens.mean(0), tokens.var(0)
    products = [
        (batch[r, t] - mu) * (batch[r, t + lag] - mu)
        for batch, document in zip(h, documents, strict=True)
        for r, t in pairs_of(document, lag)
        if band[0] <= t + lag < band[1]
    ]
    return mean((np.mean(products, axis=0) / var)[var > 0]) if len(products) >= least else math.nan


def across_positions(h: list, documents: list, p: int, q: int, least: int) -> float:
    rows = [
        (batch[r, p], batch[r, q])
        for batch, document in zip(h, documents, strict=True)
        for r in range(len(document))
        if document[r, p] >= 0 and document[r, p] == document[r, q]
    ]
    if len(rows) < least:
        return math.nan
    x, y = (np.stack(ends) for ends in zip(*rows, strict=True))
    varying = [i for i in range(x.shape[1]) if x[:, i].std() > 0 and y[:, i].std() > 0]
    return mean([float(np.corrcoef(x[:, i], y[:, i])[0, 1]) for i in varying])


def slope(h: list, documents: list) -> float:
    positions = np.concatenate([np.nonzero(document >= 0)[1] for document in documents])
    tokens = kept(h, documents)
    found = [abs(np.corrcoef(positions, tokens[:, i])[0, 1]) for i in range(tokens.shape[1]) if tokens[:, i].std() > 0]
    return mean(found)


def turnover(a: list, documents: list, ends: list[np.ndarray], kind: str) -> tuple[float, np.ndarray]:
    """Mean over pairs of adjacent tokens of a kind, and how often each latent changes there."""
    values, changes = [], np.zeros(a[0].shape[-1], dtype=int)
    for batch, document, end in zip(a, documents, ends, strict=True):
        for row in range(len(document)):
            at = np.flatnonzero(document[row] >= 0)
            for t, later in pairwise(at):
                same = document[row, t] == document[row, later]
                found = {"all": same, "sentence": same and end[row, t], "document": not same}
                found["interior"] = same and not end[row, t]
                if found[kind]:
                    one, other = set(np.flatnonzero(batch[row, t])), set(np.flatnonzero(batch[row, later]))
                    changes[list(one ^ other)] += 1
                    if one or other:
                        values.append(len(one ^ other) / (len(one) + len(other)))
    return mean(values), changes


def followed(a: list, documents: list) -> np.ndarray:
    first, second = gather(a, documents, 1)
    return first.T @ second


def followed_in_random_order(a: list, documents: list, rng: np.random.Generator, times: int) -> np.ndarray:
    """Mean of `followed` over permutations within documents."""
    total = np.zeros((a[0].shape[-1],) * 2)
    for _ in range(times):
        for b, row, start, stop in stretches(documents):
            moved = a[b][row, start:stop][rng.permutation(stop - start)]
            total += moved[:-1].T @ moved[1:]
    return total / times


def benjamini_hochberg(p: np.ndarray, level: float, tests: int) -> np.ndarray:
    order = np.argsort(p)
    largest = 0
    for rank, i in enumerate(order, start=1):
        if p[i] <= level * rank / tests:
            largest = rank
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order[:largest]] = True
    return rejected


def redundancy(tokens: np.ndarray) -> tuple[float, float]:
    """Share of highly correlated pairs and effective rank, of columns that vary."""
    correlation = np.corrcoef(tokens[:, tokens.std(0) > 0].T)
    pairs = list(combinations(range(len(correlation)), 2))
    shares = np.linalg.eigvalsh(correlation) / len(correlation)
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    return mean([float(abs(correlation[i, j]) > 0.9) for i, j in pairs]), math.exp(entropy)
