"""Mean, variance and norms of the activations, in float64, over the kept tokens of the train split.

A shard is reduced sequence by sequence (which fits the cache), and the shards pairwise in a fixed tree, with the
parallel algorithm of Chan, Golub & LeVeque (1983): the result does not depend on who computes what when.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dask
import numpy as np
from dask.delayed import Delayed

from store.documents import in_train, is_train
from store.engine import compute
from store.layout import DOCUMENTS, STATISTICS, Layout
from store.problem import Problem
from store.progress import SILENT, Progress
from store.shards import ShardedArray, array_metadata, group_metadata


@dataclass(frozen=True)
class Statistics:
    """What normalisation needs to know of one layer."""

    mean: np.ndarray
    """float64 [d]: mean over the tokens."""
    variance: np.ndarray
    """float64 [d]: mean squared distance from the mean, per dimension."""
    norm_by_position: np.ndarray
    """float64 [context]: mean Euclidean norm at each position; NaN where no token is kept (BOS)."""
    count: int
    """Tokens: kept (neither BOS nor padding), of the train split."""

    @property
    def scale(self) -> float:
        """sqrt(E||x - mean||^2): dividing by it gives centred activations a mean squared norm of 1."""
        return math.sqrt(self.variance.sum())


class Moments(NamedTuple):
    """Partial sums over some tokens."""

    n: int
    """Number of tokens."""
    mean: np.ndarray
    """[d]"""
    squares: np.ndarray
    """[d]: summed squared distance from `mean`."""
    norms: np.ndarray
    """[context]: summed norm at each position."""
    kept: np.ndarray
    """[context]: number of tokens at each position."""


def compute_statistics(
    folder: Path, layout: Layout, layers: Iterable[int], progress: Progress = SILENT
) -> dict[int, Statistics]:
    """Layer -> statistics of `layers` of the store in `folder`, computed with Dask, a task a shard and layer.

    Raises Problem when the activations hold NaN or infinity.
    """
    place = folder.absolute()  # a worker may have another working directory
    train = dask.delayed(is_train)(place / DOCUMENTS)
    totals = {layer: _total(place, layout, layer, train) for layer in layers}
    progress.start("statistics", len(totals), "layers")
    moments = compute(list(totals.values()), lambda _: progress.advance(1))
    return {layer: _statistics(total, folder, layer) for layer, total in zip(totals, moments, strict=True)}


def _total(folder: Path, layout: Layout, layer: int, train: Delayed) -> Delayed:
    """The moments of a whole layer, when it is computed: those of its shards, merged pairwise."""
    array = layout.activations[layer]
    level = [
        dask.delayed(shard_moments)(folder, array, layout.document, shard, train) for shard in range(layout.n_shards)
    ]
    while len(level) > 1:
        pairs = [dask.delayed(merge)(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def _statistics(total: Moments, folder: Path, layer: int) -> Statistics:
    if not np.isfinite(total.mean).all() or not np.isfinite(total.squares).all():
        raise Problem(
            "The activations hold values that are not finite.",
            where=f"layer {layer} of {folder.absolute()}",
            expected="finite numbers",
            found="NaN or infinity",
            do="harvest in bfloat16 or float32: float16 ends at 65504",
        )
    with np.errstate(invalid="ignore"):
        norm_by_position = total.norms / total.kept
    variance = total.squares / max(total.n, 1)
    return Statistics(total.mean, variance, norm_by_position, total.n)


def shard_moments(folder: Path, array: ShardedArray, document: ShardedArray, shard: int, train: np.ndarray) -> Moments:
    """Moments of the kept train tokens of one shard; `train` is bool [n_documents]."""
    context, d = array.shape[1:]
    total = Moments(0, np.zeros(d), np.zeros(d), np.zeros(context), np.zeros(context))
    for vectors, ids in zip(array.map(folder, shard), document.map(folder, shard), strict=True):
        kept = in_train(ids, train)
        if kept.any():
            total = merge(total, _sequence_moments(as_float64(vectors[kept]), kept))
    return total


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is refused at the end
def _sequence_moments(x: np.ndarray, kept: np.ndarray) -> Moments:
    """Moments of the tokens x [n, d] of one sequence, which are at the positions that kept [context] marks."""
    norms = np.zeros(len(kept))
    norms[kept] = np.sqrt(np.einsum("nd,nd->n", x, x))
    mean = x.mean(axis=0)
    x -= mean
    return Moments(len(x), mean, np.einsum("nd,nd->d", x, x), norms, kept.astype(float))


@np.errstate(invalid="ignore", over="ignore")
def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the tokens of both."""
    n = a.n + b.n
    if n == 0:
        return a
    delta, share = b.mean - a.mean, b.n / n
    squares = a.squares + b.squares + delta * delta * (a.n * share)
    return Moments(n, a.mean + delta * share, squares, a.norms + b.norms, a.kept + b.kept)


def as_float64(x: np.ndarray) -> np.ndarray:
    """Stored activations as float64; uint16 holds the upper half of a float32 (bfloat16)."""
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def statistics_files(layout: Layout, layer: int, statistics: Statistics) -> dict[str, bytes]:
    """Path -> content of the Zarr group that keeps the statistics of `layer`."""
    folder = layout.statistics_folder(layer)
    files = {f"{folder}/zarr.json": group_metadata({"count": statistics.count, "split": "train"})}
    for name, dimension in STATISTICS.items():
        vector = getattr(statistics, name)
        files[f"{folder}/{name}/zarr.json"] = array_metadata(
            vector.shape, vector.shape, "float64", dimensions=(dimension,)
        )
        files[f"{folder}/{name}/c/0"] = vector.astype("<f8").tobytes()
    return files


def parse_statistics(layout: Layout, layer: int, files: dict[str, bytes]) -> Statistics:
    """The inverse of `statistics_files`. Raises Problem for files that it would not write."""
    folder = layout.statistics_folder(layer)
    try:
        vectors = {name: np.frombuffer(files[f"{folder}/{name}/c/0"], "<f8") for name in STATISTICS}
        statistics = Statistics(**vectors, count=json.loads(files[f"{folder}/zarr.json"])["attributes"]["count"])
        sizes = [len(vector) for vector in vectors.values()]
        sound = type(statistics.count) is int and sizes == [layout.layers[layer]] * 2 + [layout.context]
        sound = sound and statistics_files(layout, layer, statistics) == files
        sound = sound and bool(np.isfinite(statistics.mean).all() and np.isfinite(statistics.scale))
        sound = sound and statistics.count >= 0 and bool((statistics.variance >= 0).all())
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise Problem(
            "The statistics of this store are not as the format has them.",
            where=folder,
            expected="a count, and vectors of finite numbers",
            do="get the store again from its source; this one is damaged, or not to be trusted",
        )
    return statistics
