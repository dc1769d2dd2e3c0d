"""Probing of SAEs on packed documents: tasks, splits, features, and what comes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch

from stages.evaluate.batches import Batches
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.probing import tasks as probe_tasks
from stages.evaluate.probing.run import Probing, collect, probe
from stages.evaluate.probing.sparse_probe import probe_latents
from stages.evaluate.probing.tasks import FOLDS, GAP_TOKENS, TEST_TOKENS, TRAIN_TOKENS, Task, make_tasks
from stages.language_model.tokens import Packer
from stages.sae.architecture import NO_PARTS, SparsifierRow
from stages.sae.build import Blueprint
from stages.sae.model import SAE
from stages.sae.sparsifier import ReLU
from tests.evaluate.stand_ins import MemoryStore
from tests.tiny import SENTENCES, tiny_tokenizer

DOCUMENTS, CONTEXT, D = 96, 80, 24
BLUEPRINT = Blueprint(SparsifierRow("relu"), NO_PARTS, "tied", D, D, 1, CONTEXT)
TOKENIZER = tiny_tokenizer()


@dataclass
class ProbedStore(MemoryStore):
    """A store in memory, all of it heldout, that knows its documents."""

    documents: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def context(self) -> int:
        return self.document_.shape[1]

    def rows(self, split: str) -> np.ndarray:
        assert split == "heldout"
        return np.arange(len(self.document_))


def packed_store(documents: int = DOCUMENTS) -> ProbedStore:
    """Documents of two sentences or more, one after another: some go on in the next row.

    Of the dimensions, 0 and 1 are large at all tokens of a topic's documents, 2 to 9 are a code of the document, the
    others noise.
    """
    rng = np.random.default_rng(0)
    packer = Packer(CONTEXT, "concat", TOKENIZER.bos_token_id, TOKENIZER.pad_token_id)
    rows = []
    for _ in range(documents):
        text = " ".join(rng.choice(SENTENCES, rng.integers(2, 5)))
        ids = np.array(TOKENIZER.encode(text, add_special_tokens=False), np.int32)
        rows.append(packer.add(ids, "heldout")[1])
    rows.append(packer.finish())
    tokens, document = (np.concatenate(each) for each in zip(*rows, strict=True))
    topic = np.arange(documents) % 2
    x = rng.standard_normal((*tokens.shape, D)).clip(-3, 3)
    x[..., 0] += 8 * (topic[document] == 0)
    x[..., 1] += 8 * (topic[document] == 1)
    x[..., 2:10] += 6 * rng.standard_normal((documents, 8))[document]
    x[document < 0] = np.nan
    labels = np.array(["blue", "red"])[topic].astype(object)
    labels[::16], labels[7:10] = "Uncategorized", "rare"
    table = pd.DataFrame({"id": [f"document {i}" for i in range(documents)], "label": labels})
    return ProbedStore(torch.as_tensor(x, dtype=torch.float32), tokens, document, documents=table)


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Fewer examples than in earnest, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_tasks, "TAGGED_TOKENS", 1500)
        patch.setattr(probe_tasks, "CONTEXT_DOCUMENTS", 16)
        yield


@pytest.fixture(scope="module")
def store() -> ProbedStore:
    return packed_store()


@pytest.fixture(scope="module")
def tasks(store: ProbedStore) -> dict[str, Task]:
    return make_tasks(store, TOKENIZER)


def identity() -> SAE:
    """A latent for each dimension, active where that is positive."""
    sae = SAE(D, D, ReLU())
    sae.initialise(0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.W_dec.copy_(torch.eye(D))
    return sae


class KnowsDocuments(SAE):
    """Has no codes where nothing says which tokens share a document."""

    def encode(self, x: torch.Tensor, segments: torch.Tensor | None = None, start: int = 0) -> torch.Tensor:
        assert segments is not None and segments.shape == x.shape[:2]
        return super().encode(x, segments, start)


def run(store: ProbedStore, **saes: SAE) -> dict[str, Probing]:
    batches = Batches.divide(store.rows("heldout"), EvaluateConfig(batch_rows=5))
    return probe(saes, dict.fromkeys(saes, BLUEPRINT), store, 1, TOKENIZER, batches)


@pytest.fixture(scope="module")
def probed(store: ProbedStore) -> dict[str, Probing]:
    """Two SAEs probed together."""
    other = KnowsDocuments(D, D, ReLU())
    other.initialise(7)
    return run(store, sae=identity(), other=other)


def test_documents_are_in_one_fold_and_topics_in_all(store: ProbedStore, tasks: dict[str, Task]) -> None:
    for name in ("semantics", "semantics_mean", "syntax"):
        task = tasks[name]
        assert len(task.splits) == FOLDS
        for train, test in task.splits:
            assert not set(task.document[train]) & set(task.document[test])
            assert sorted([*train, *test]) == list(range(len(task.label)))
        assert sorted(np.concatenate([test for _, test in task.splits])) == list(range(len(task.label))), name
        for number, topic in enumerate(tasks["semantics"].classes):
            inside = tasks["semantics"].label == number
            counts = [inside[test].sum() for _, test in tasks["semantics"].splits]
            assert max(counts) - min(counts) <= 1, topic


def test_examples_of_topics_are_last_tokens_and_whole_documents(store: ProbedStore, tasks: dict[str, Task]) -> None:
    flat = store.document_.ravel()
    last, mean = tasks["semantics"], tasks["semantics_mean"]
    labelled = [i for i, label in enumerate(store.documents.label) if label in ("red", "blue")]
    assert last.classes == mean.classes == ["blue", "red"]
    assert last.document.tolist() == mean.document.tolist() == labelled
    assert [last.classes[i] for i in last.label] == store.documents.label[labelled].tolist()
    for example, number in enumerate(labelled):
        (where,) = np.nonzero(flat == number)
        assert last.tokens[last.example == example].tolist() == [where[-1]]
        assert mean.tokens[mean.example == example].tolist() == where.tolist()
    assert last.left_out == {"documents without a topic": 6, "rare, in too few documents": 3}
    assert last.sizes == {"blue": labelled_as(store, "blue"), "red": labelled_as(store, "red")}


def labelled_as(store: ProbedStore, topic: str) -> int:
    return int((store.documents.label == topic).sum())


def test_syntax_asks_tokens_by_their_word_and_only_kept_ones(store: ProbedStore, tasks: dict[str, Task]) -> None:
    task = tasks["syntax"]
    spelled = [TOKENIZER.decode([i]).strip() for i in store.tokens_.ravel()[task.tokens]]
    names = np.array(task.classes)[task.label]
    assert set(names[[text == "." for text in spelled]]) == {"PUNCT"}
    assert set(names[[text == "the" for text in spelled]]) == {"DET"}
    assert {"NOUN", "VERB", "ADP"} <= set(task.classes)
    assert (store.document_.ravel()[task.tokens] == task.document).all()
    assert len(set(task.tokens)) == len(task.tokens)


def test_context_is_split_by_position_with_a_gap_in_one_row(store: ProbedStore, tasks: dict[str, Task]) -> None:
    task = tasks["context"]
    [(train, test)] = task.splits
    assert len(task.classes) == 16
    for number in range(len(task.classes)):
        early = task.tokens[train[task.label[train] == number]]
        late = task.tokens[test[task.label[test] == number]]
        assert (len(early), len(late)) == (TRAIN_TOKENS, TEST_TOKENS)
        assert late.min() - early.max() == GAP_TOKENS + 1
        assert len({*early // CONTEXT, *late // CONTEXT}) == 1
        (document,) = {*store.document_.ravel()[early], *store.document_.ravel()[late]}
        assert task.classes[number] == f"document {document}"
        assert late.max() == np.flatnonzero(store.document_.ravel() == document)[-1]


def test_features_are_means_over_tokens_across_rows_and_batches(store: ProbedStore, tasks: dict[str, Task]) -> None:
    features = collect(lambda x, _: x.relu(), store, 1, 3, tasks, torch.device("cpu"))
    codes = store.activations.relu().flatten(0, 1).double().numpy()
    for name, task in tasks.items():
        found = features[name].toarray()
        assert found.shape == (len(task.label), D)
        for example in range(0, len(task.label), 5):
            expected = codes[task.tokens[task.example == example]].mean(0)
            np.testing.assert_allclose(found[example], expected, rtol=1e-5, err_msg=name)
    rows = tasks["semantics_mean"].tokens // CONTEXT
    assert any(len(set(rows[tasks["semantics_mean"].example == i])) > 1 for i in range(50))  # some go on in the next


def test_planted_signals_are_found_in_the_task_that_they_are_in(probed: dict[str, Probing]) -> None:
    probing = probed["sae"]
    summary = probing.summary()
    assert probing.scores["codes"]["semantics"]["1"].features == 2
    assert probing.scores["codes"]["semantics"]["1"].accuracy > 0.97
    assert summary["probe_semantics_mean_k5"] > 0.97
    assert summary["probe_semantics_dense"] > 0.97
    assert probing.scores["activations"]["semantics"]["all"].features == D
    assert summary["probe_semantics_majority"] < 0.6
    assert summary["probe_context_k5"] > 0.8 > 0.1 > summary["probe_context_majority"]
    assert summary["probe_syntax_k5"] < summary["probe_syntax_majority"] + 0.05  # nothing tells parts of speech
    assert summary["probe_syntax_dense"] < summary["probe_syntax_majority"] + 0.05


def test_a_code_of_documents_tells_no_topic_of_new_ones(store: ProbedStore, tasks: dict[str, Task]) -> None:
    def only_documents(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return x[..., 2:10].relu()

    features = collect(only_documents, store, 1, 5, tasks, torch.device("cpu"))
    topics = probe_latents(features["semantics_mean"], tasks["semantics_mean"])["20"]
    assert topics.accuracy_interval[0] < 0.55
    assert probe_latents(features["context"], tasks["context"])["20"].accuracy > 0.7  # but it tells documents


def test_training_shows_against_an_untrained_sae(probed: dict[str, Probing]) -> None:
    probing = probed["sae"]
    trained, fresh = (probing.scores[signal]["semantics"]["1"].accuracy for signal in ("codes", "untrained"))
    assert trained > fresh + 0.05
    assert probing.scores["untrained"]["semantics"]["1"].accuracy > 0.6  # random directions hold some of it


def test_together_equals_alone_whatever_stands_at_special_positions(probed: dict[str, Probing]) -> None:
    moved = packed_store()
    special = torch.as_tensor(moved.document_ < 0)
    assert special.any() and moved.activations[special].isnan().all()
    moved.activations[special] = 1e5
    alone = run(moved, sae=identity())["sae"]
    together, other = probed["sae"], probed["other"]
    assert json.dumps(together.document("x")) == json.dumps(alone.document("x"))
    assert together.scores["untrained"] is other.scores["untrained"]
    assert together.scores["activations"] is other.scores["activations"]
    assert together.scores["codes"] != other.scores["codes"]


def test_the_document_says_what_was_asked_and_the_summary_has_its_numbers(probed: dict[str, Probing]) -> None:
    probing = probed["sae"]
    document = json.loads(json.dumps(probing.document("abc"), allow_nan=False))
    assert (document["format"], document["fingerprint"], document["k"]) == ("tsae-probing", "abc", [1, 5, 10, 20])
    assert document["tagger"].startswith("en_core_web_sm")
    assert set(document["tasks"]) == set(probe_tasks.DEFINITIONS)
    summary = probing.summary()
    for name, task in document["tasks"].items():
        assert task["reason"] is None
        assert sum(task["classes"].values()) == task["examples"]
        assert set(task["scores"]["codes"]) == set(task["scores"]["untrained"]) == {"1", "5", "10", "20"}
        assert summary[f"probe_{name}_k5"] == task["scores"]["codes"]["5"]["accuracy"]
        assert summary[f"probe_{name}_k5_se"] == task["scores"]["codes"]["5"]["accuracy_se"]
        assert summary[f"probe_{name}_k5_untrained"] == task["scores"]["untrained"]["5"]["accuracy"]
        assert summary[f"probe_{name}_dense"] == task["scores"]["activations"]["all"]["accuracy"]
        assert summary[f"probe_{name}_majority"] == task["scores"]["majority"]["all"]["accuracy"]
    assert summary["probe_syntax_k5_se"] > 0
    assert len(summary) == 5 * len(document["tasks"])


def test_too_few_documents_or_classes_give_no_number_but_a_reason() -> None:
    one_topic = packed_store()
    one_topic.documents["label"] = ["red"] * 70 + [None] * 26
    found = run(one_topic, sae=identity())["sae"]
    task = found.document("x")["tasks"]["semantics"]
    assert task["reason"] == "1 classes occur in 20 documents or more, needed are 2"
    assert task["left_out"] == {"documents without a topic": 26}
    assert (task["examples"], task["classes"], task["scores"]["codes"]) == (0, {}, {})
    assert math.isnan(found.summary()["probe_semantics_k5"])
    assert math.isnan(found.summary()["probe_semantics_dense"])
    assert found.summary()["probe_context_k5"] > 0  # the others are there
    reasons = {name: task.reason for name, task in make_tasks(packed_store(15), TOKENIZER).items()}
    assert all(reasons[name] and "0 classes" in reasons[name] for name in ("semantics", "semantics_mean", "syntax"))


def test_without_room_for_the_gap_there_is_no_context(store: ProbedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_tasks, "TRAIN_TOKENS", CONTEXT)
    task = make_tasks(store, TOKENIZER)["context"]
    assert task.reason == f"0 documents end with {CONTEXT + GAP_TOKENS + TEST_TOKENS} tokens in one row, needed are 2"
    assert task.left_out == {"documents without enough tokens at the end of one row": DOCUMENTS}


def test_without_a_tagger_only_syntax_is_missing(store: ProbedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_tasks, "tagger_version", lambda: None)
    found = make_tasks(store, TOKENIZER)
    assert "pip install -e '.[probing]'" in str(found["syntax"].reason)
    assert [name for name, task in found.items() if task.reason] == ["syntax"]


def test_large_stores_are_sampled(store: ProbedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"MAX_DOCUMENTS": 90, "TAGGED_TOKENS": 500, "CONTEXT_DOCUMENTS": 10}
    for name, value in limits.items():
        monkeypatch.setattr(probe_tasks, name, value)
    found = make_tasks(store, TOKENIZER)
    assert len(found["semantics"].label) + sum(found["semantics"].left_out.values()) == 90
    assert len(found["syntax"].label) + sum(found["syntax"].left_out.values()) == 500
    assert len(found["context"].classes) == 10
    assert found["semantics"].document.max() > 90  # not the first ones
