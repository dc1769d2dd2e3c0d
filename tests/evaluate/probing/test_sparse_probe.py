"""k-sparse probes of examples made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from stages.evaluate.probing.sparse_probe import KS, Score, majority, probe_all, probe_latents, ranking
from stages.evaluate.probing.tasks import Task

CLASSES, LATENTS = 4, 60


def task_of(label: np.ndarray, document: np.ndarray | None = None, folds: int = 4) -> Task:
    """Examples of one token each, with whole documents in each fold."""
    number = np.arange(len(label))
    document = number if document is None else document
    splits = [(np.flatnonzero(document % folds != i), np.flatnonzero(document % folds == i)) for i in range(folds)]
    return Task([f"class {i}" for i in range(label.max() + 1)], label, document, number, number, splits)


def sparse_codes(examples: int, latents: int = LATENTS) -> np.ndarray:
    """Latents that fire at a tenth of the examples, whatever their class; some never."""
    rng = np.random.default_rng(0)
    codes = rng.exponential(size=(examples, latents)) * (rng.random((examples, latents)) < 0.1)
    codes[:, ::13] = 0
    return codes.astype(np.float32)


def labels(examples: int) -> np.ndarray:
    """Classes of one size, in any order."""
    return np.random.default_rng(1).permutation(np.arange(examples) % CLASSES)


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_the_ranking_is_that_of_a_literal_loop(form: type) -> None:
    codes, label = sparse_codes(200), labels(200)
    label[label == 2] = 3  # a class without examples
    expected = []
    for each in (0, 1, 3):
        scores = []
        for latent in range(LATENTS):
            within = [float(codes[i, latent]) for i in range(200) if label[i] == each]
            others = [float(codes[i, latent]) for i in range(200) if label[i] != each]
            scores.append(sum(within) / len(within) - sum(others) / len(others))
        expected.append(sorted(range(LATENTS), key=lambda latent: (-scores[latent], latent))[:20])
    assert ranking(form(codes), label, 20).tolist() == expected


def test_planted_latents_are_found_and_one_a_class_is_enough() -> None:
    codes, label = sparse_codes(400), labels(400)
    planted = np.array([7, 21, 33, 50])
    codes[:, planted] = 0
    codes[np.arange(400), planted[label]] = 3 + codes[:, 0]
    assert ranking(codes, label, 1)[:, 0].tolist() == planted.tolist()
    task = task_of(label)
    scores = probe_latents(csr_array(codes), task)
    assert set(scores) == {str(k) for k in KS}
    assert scores["1"].features == CLASSES
    assert scores["1"].accuracy == scores["1"].balanced_accuracy == 1
    assert scores["20"].accuracy > 0.95
    assert probe_all(csr_array(codes), task).accuracy > 0.95
    assert majority(task).accuracy < 0.35


def test_without_a_signal_the_accuracy_is_that_of_guessing() -> None:
    """Among so many latents some look telling. Chosen where they are tested, they seem to be."""
    examples = 240
    codes = csr_array(sparse_codes(examples, latents=3000))
    task = task_of(np.arange(examples) // 4 % CLASSES)
    error = math.sqrt(0.25 * 0.75 / examples)
    for k, score in probe_latents(codes, task).items():
        assert abs(score.accuracy - 1 / CLASSES) < 3 * error, k
    everywhere = np.unique(ranking(codes, task.label, 20))
    assert probe_all(codes[:, everywhere], task).accuracy > 1 / CLASSES + 5 * error


def test_what_identifies_documents_only_tells_no_class_of_new_ones() -> None:
    documents, each = 80, 10
    rng = np.random.default_rng(0)
    label = np.repeat(rng.permutation(np.arange(documents) % 2), each)
    document = np.repeat(np.arange(documents), each)
    features = np.eye(documents, dtype=np.float32)[document]
    apart = task_of(label, document)
    assert probe_all(features, apart).accuracy < 0.6
    mixed = task_of(label, rng.permutation(documents * each))  # splits that do not know documents
    assert probe_all(features, mixed).accuracy == 1


def test_the_units_of_features_change_nothing() -> None:
    codes, label = sparse_codes(300), labels(300)
    codes[:, 0] += label  # some signal
    task, units = task_of(label), np.float32(2.0) ** np.arange(-30, 30)
    score = probe_all(codes, task)
    assert 1.5 / CLASSES < score.accuracy < 1
    assert probe_all(codes * units, task) == probe_all(csr_array(codes * units), task) == score


def test_the_majority_is_that_of_the_examples_to_train_on() -> None:
    label = np.array([0, 0, 1, 0, 1, 1, 1, 0, 1, 1])
    halves = (np.arange(5), np.arange(5, 10))
    task = Task(["a", "b"], label, np.arange(10), np.arange(10), np.arange(10), [halves])
    score = majority(task)
    assert (score.accuracy, score.balanced_accuracy, score.features) == (0.2, 0.5, 0)


def test_accuracies_of_unequal_classes() -> None:
    label = np.array([0] * 8 + [1] * 2)
    task = Task(["a", "b"], label, np.arange(10), np.arange(10), np.arange(10), [(np.arange(0), np.arange(10))])
    told = np.array([0] * 6 + [1] * 2 + [1, 0])
    score = Score.of(task, [told], 5)
    assert score.accuracy == pytest.approx(0.7)
    assert score.balanced_accuracy == pytest.approx((6 / 8 + 1 / 2) / 2)


def test_intervals_count_documents_not_tokens() -> None:
    rng = np.random.default_rng(0)
    label = np.zeros(300, dtype=int)
    told = (rng.random(300) < 0.3).astype(int)
    none = np.empty(0, dtype=int)

    def score(copies: int) -> Score:
        tokens = np.arange(300 * copies)
        task = Task(["a", "b"], label.repeat(copies), tokens // copies, tokens, tokens, [(none, tokens)])
        return Score.of(task, [told.repeat(copies)], 1)

    single, copied = score(1), score(20)
    assert single.accuracy_se == pytest.approx(math.sqrt(0.3 * 0.7 / 300), rel=0.1)
    assert copied.accuracy_se == pytest.approx(single.accuracy_se)
    low, high = copied.accuracy_interval
    assert high - low == pytest.approx(2 * 1.96 * single.accuracy_se, rel=0.1)
    assert low < copied.accuracy < high
