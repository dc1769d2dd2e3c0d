"""Kinds of latents, by how they are active."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

MIN_LATENTS = 50
"""Latents below which there is no clustering."""
CLUSTERS = range(2, 9)
"""Numbers of clusters to choose from."""
BOOTSTRAPS = 20
STARTS = 4
"""Of k-means; the best one counts."""
SILHOUETTE_SAMPLE = 1000
"""Latents on which a silhouette is taken, as it compares all of them with each other."""
SEED = 0


@dataclass(frozen=True)
class Clusters:
    """Clusters of latents by their patterns of activation. Nothing says that there are kinds: a low silhouette and an
    unstable assignment say that there are none, and the nulls have clusters too."""

    silhouette: float
    """Mean silhouette of the chosen number of clusters, from -1 to 1."""
    stability: float
    """Mean adjusted Rand index between the clusters and those found on bootstrap samples of the latents: 1 where
    they do not depend on which latents were seen, 0 for chance."""
    sizes: list[int]
    """Latents of each, the largest first."""
    centres: list[dict[str, float]]
    """Mean of each property over each cluster, in the properties' own units."""


NO_CLUSTERS = Clusters(math.nan, math.nan, [], [])


def clusters(properties: dict[str, Float[np.ndarray, " d"]]) -> Clusters:
    """k-means on z-scored properties of latents, with the number of clusters of the best silhouette.

    Properties that no latent has or that do not vary, and latents that lack one of the others, are left out.
    """
    names = [name for name, values in properties.items() if np.isfinite(values).any()]
    table = np.stack([properties[name] for name in names], axis=1) if names else np.empty((0, 0))
    table = table[np.isfinite(table).all(axis=1)]
    if len(table) < MIN_LATENTS:
        return NO_CLUSTERS
    spread = table.std(axis=0)
    if not spread.any():
        return NO_CLUSTERS
    z = ((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1))[:, spread > 0]
    models = [_fitted(z, k) for k in CLUSTERS]
    scores = [_silhouette(z, model.labels_) for model in models]
    best = int(np.argmax(scores))
    labels = models[best].labels_
    order = np.argsort(-np.bincount(labels), kind="stable")
    return Clusters(
        silhouette=scores[best],
        stability=_stability(z, labels, CLUSTERS[best]),
        sizes=np.bincount(labels)[order].tolist(),
        centres=[dict(zip(names, table[labels == i].mean(axis=0).tolist(), strict=True)) for i in order],
    )


def _fitted(z: Float[np.ndarray, "latents properties"], k: int) -> KMeans:
    return KMeans(k, n_init=STARTS, random_state=SEED).fit(z)


def _silhouette(z: Float[np.ndarray, "latents properties"], labels: Int[np.ndarray, " latents"]) -> float:
    """-1 where the sample is of one cluster, as for a number of clusters that should not be chosen."""
    sample = np.random.default_rng(SEED).permutation(len(z))[:SILHOUETTE_SAMPLE]
    return float(silhouette_score(z[sample], labels[sample])) if len(set(labels[sample])) > 1 else -1.0


def _stability(z: Float[np.ndarray, "latents properties"], labels: Int[np.ndarray, " latents"], k: int) -> float:
    rng = np.random.default_rng(SEED)
    samples = [z[rng.integers(len(z), size=len(z))] for _ in range(BOOTSTRAPS)]
    return float(np.mean([adjusted_rand_score(labels, _fitted(sample, k).predict(z)) for sample in samples]))
