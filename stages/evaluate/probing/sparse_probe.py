"""k-sparse probes (Gurnee et al. 2023, arXiv 2305.01610): how well a few latents tell classes apart.

Latents are chosen as the T-SAE paper does: for every class those whose mean within the class exceeds their mean in all
others most, `k` a class, and their union is read by multinomial logistic regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from stages.evaluate.probing.tasks import Task

KS = (1, 5, 10, 20)
"""Latents a class, as in the T-SAE paper."""
ITERATIONS = 1000
"""Of the solver at most; scikit-learn's 100 are too few for all dimensions of the activations."""
RESAMPLES = 1000
"""Of the bootstrap."""
SEED = 0
"""Of the bootstrap: every signal is resampled alike."""
DENSE = 0.1
"""Share of non-zero features from which dense products are faster than sparse ones."""

Features: TypeAlias = np.ndarray | csr_array
"""[examples, features]: latents, or dimensions of the activations."""


@dataclass(frozen=True)
class Score:
    """How well the classes of test examples were told. Intervals are 95 % and of test documents: they do not contain
    what other documents to train on would change."""

    features: float
    """Latents or dimensions that a probe reads, the mean over splits."""
    accuracy: float
    """Share of test examples whose class was told."""
    accuracy_interval: tuple[float, float]
    """Percentiles of the bootstrap over documents."""
    accuracy_se: float
    """Standard deviation of the bootstrap over documents."""
    balanced_accuracy: float
    """Mean over classes of the share of its test examples whose class was told."""
    balanced_accuracy_interval: tuple[float, float]
    """Percentiles of the bootstrap over documents."""

    @classmethod
    def of(cls, task: Task, told: Sequence[Int[np.ndarray, " test"]], features: float) -> Score:
        """Of the classes that probes told of the test examples of each split."""
        tested = np.concatenate([test for _, test in task.splits])
        label = task.label[tested]
        _, cluster = np.unique(task.document[tested], return_inverse=True)
        totals = np.zeros((cluster.max() + 1, len(task.classes)))
        hits = np.zeros_like(totals)
        np.add.at(totals, (cluster, label), 1)
        np.add.at(hits, (cluster, label), np.concatenate(told) == label)
        draws = np.random.default_rng(SEED).multinomial(len(totals), np.full(len(totals), 1 / len(totals)), RESAMPLES)
        accuracies, balanced = _accuracies(draws @ hits, draws @ totals)
        here = _accuracies(hits.sum(0, keepdims=True), totals.sum(0, keepdims=True))
        accuracy, balanced_accuracy = (float(each[0]) for each in here)
        spread = float(accuracies.std(ddof=1))
        return cls(features, accuracy, _interval(accuracies), spread, balanced_accuracy, _interval(balanced))


def _accuracies(
    hits: Float[np.ndarray, "n classes"], totals: Float[np.ndarray, "n classes"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Accuracy, and balanced accuracy over the classes that there are."""
    there = totals > 0
    shares = np.divide(hits, totals, out=np.zeros_like(hits), where=there)
    return hits.sum(1) / totals.sum(1), shares.sum(1) / there.sum(1)


def _interval(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5]).tolist()
    return low, high


def ranking(features: Features, label: Int[np.ndarray, " examples"], most: int) -> Int[np.ndarray, "classes most"]:
    """For every class that has examples, the `most` latents whose mean in it exceeds their mean in all others most,
    in that order. Of equal ones the first comes first."""
    classes, sizes = np.unique(label, return_counts=True)
    sums = np.stack([features[label == each].sum(axis=0, dtype=np.float64) for each in classes])
    others = (sums.sum(axis=0) - sums) / (len(label) - sizes)[:, None]
    return np.argsort(others - sums / sizes[:, None], axis=1, kind="stable")[:, :most]


def classify(train: Features, label: Int[np.ndarray, " train"], test: Features) -> Int[np.ndarray, " test"]:
    """Classes that multinomial logistic regression tells of test examples.

    Features are divided by their standard deviation among the train examples, so that the penalty (scikit-learn's
    default) means the same for signals of all sizes; they are not centred, which would make sparse ones dense.
    """
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=ITERATIONS))
    return model.fit(_suited(train), label).predict(_suited(test))


def _suited(features: Features) -> Features:
    """In the form whose products are faster."""
    if isinstance(features, csr_array) and features.nnz > DENSE * np.prod(features.shape):
        return features.toarray()
    return features


def probe_latents(features: Features, task: Task) -> dict[str, Score]:
    """By k, the score of probes that read k latents a class, chosen on the examples to train on."""
    ranked = [ranking(features[train], task.label[train], max(KS)) for train, _ in task.splits]
    return {str(k): _probe([features[:, np.unique(best[:, :k])] for best in ranked], task) for k in KS}


def probe_all(features: Features, task: Task) -> Score:
    """The score of probes that read all features."""
    return _probe([features] * len(task.splits), task)


def majority(task: Task) -> Score:
    """The score of always telling the most frequent class of the examples to train on: the floor."""
    told = [np.full(len(test), np.bincount(task.label[train]).argmax()) for train, test in task.splits]
    return Score.of(task, told, 0.0)


def _probe(features: Sequence[Features], task: Task) -> Score:
    """The score of a probe a split, each with features of its own.

    On one thread: the solver's products are so small that on two cores with other work on them, threads that wait for
    each other take 35 s for the dense probes instead of 5.
    """
    each = zip(features, task.splits, strict=True)
    with threadpool_limits(limits=1):
        told = [classify(x[train], task.label[train], x[test]) for x, (train, test) in each]
    return Score.of(task, told, float(np.mean([x.shape[1] for x in features])))
