"""What probes are asked about tokens of heldout documents: the document's topic, the part of speech, the document.

Where tokens lie is said by their position in the heldout rows of a store laid end to end: row * context + column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from stages.evaluate.probing.part_of_speech import MISSING, spans_of_tokens, tag_words, tagger_version, tags_of_tokens
from store import ActivationStore

MAX_DOCUMENTS = 4000
"""Documents whose topic is asked at most, as many as in the T-SAE paper: what they take in memory stays bounded."""
TAGGED_DOCUMENTS = 1000
"""Documents that are tagged at most: some ten seconds for a hundred tokens each."""
TAGGED_TOKENS = 4000
"""Tokens whose part of speech is asked at most, as in the T-SAE paper."""
CONTEXT_DOCUMENTS = 160
"""Documents that are told apart at most, as in the T-SAE paper: how hard that is depends on their number."""
TRAIN_TOKENS, GAP_TOKENS, TEST_TOKENS = 24, 8, 8
"""Of each of these documents, the last tokens in this order: three times as many to train as to test, as in the paper,
and between them some that are not used, because neighbours are alike whatever an SAE does."""
FOLDS = 4
"""Parts that the documents are divided in; each is tested by a probe trained on the others, three quarters as in the
paper. Every document is tested once, which the few of a small store need."""
MIN_DOCUMENTS = 20
"""That a class occurs in; of fewer a fold tests less than five."""
MIN_CLASSES = 2
"""Fewer are no question."""
SEED = 0
"""Of the choice of documents and tokens and of the folds."""
NO_TOPIC = ("", "Uncategorized")
"""Labels of documents that nobody labelled: none, and that of the embedded encyclopaedia."""

TOPIC = "the topic that the corpus gives the document, {}; folds of documents"
DEFINITIONS = {
    "semantics": TOPIC.format("told from its last token"),
    "semantics_mean": TOPIC.format("told from the mean over its tokens"),
    "syntax": "the part of speech of the word that a token is in, told from the token; folds of documents",
    "context": f"which document a token is from: trained on {TRAIN_TOKENS} tokens of each, tested on the last "
    f"{TEST_TOKENS}, with {GAP_TOKENS} between them; all in one row, and no document can be new",
}
"""The tasks."""

Places = Mapping[int, Int[np.ndarray, " tokens"]]
"""By document (row of the table of documents), where its tokens are, in order."""
Split = tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]
"""Numbers of the examples to train on, and of those to test on."""


class Example(NamedTuple):
    """What a class is to be told of."""

    name: str | None
    """Its class."""
    document: int
    """Row of the table of documents."""
    tokens: Int[np.ndarray, " tokens"]
    """Where its tokens are."""


@dataclass(frozen=True)
class Task:
    """Labelled examples. What stands for an example is the mean over its tokens, often one."""

    classes: list[str]
    """Names of the classes; none where too few have enough examples."""
    label: Int[np.ndarray, " examples"]
    """Number of the class of each example."""
    document: Int[np.ndarray, " examples"]
    """Row of the table of documents."""
    tokens: Int[np.ndarray, " tokens"]
    """Where the tokens are."""
    example: Int[np.ndarray, " tokens"]
    """Example that each belongs to."""
    splits: Sequence[Split]
    """Together they test every example once at most."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What was not used, and how much of it."""
    reason: str | None = None
    """Why there is nothing to measure."""

    @property
    def sizes(self) -> dict[str, int]:
        """Examples by class."""
        return dict(zip(self.classes, np.bincount(self.label).tolist(), strict=True))


def make_tasks(store: ActivationStore, tokenizer: PreTrainedTokenizerBase) -> dict[str, Task]:
    """The tasks of `DEFINITIONS` on the heldout documents of a store."""
    rows = store.rows("heldout")
    document = store.document(rows).astype(np.int64).ravel()
    kept = np.flatnonzero(document >= 0)
    kept = kept[np.argsort(document[kept], kind="stable")]
    numbers, starts = np.unique(document[kept], return_index=True)
    chosen = _choice(len(numbers), MAX_DOCUMENTS)
    everywhere = np.split(kept, starts[1:])
    places = {int(numbers[i]): everywhere[i] for i in chosen}
    topics = store.documents["label"].fillna("").to_numpy()[list(places)].tolist()
    fold = dict(zip(places, _folds(topics), strict=True))
    return {
        "semantics": _semantics({number: where[-1:] for number, where in places.items()}, topics, fold),
        "semantics_mean": _semantics(places, topics, fold),
        "syntax": _syntax(places, store.tokens(rows).ravel(), tokenizer, fold),
        "context": _context(places, store),
    }


def _choice(n: int, most: int) -> Int[np.ndarray, " chosen"]:
    """All of `n` numbers or `most` of them, ascending."""
    return np.sort(np.random.default_rng(SEED).permutation(n)[:most])


def _folds(topics: Sequence[str]) -> Int[np.ndarray, " documents"]:
    """The fold of each document, with as many of every topic in each, up to one."""
    order = np.lexsort((np.random.default_rng(SEED).permutation(len(topics)), np.array(topics)))
    fold = np.empty(len(topics), dtype=np.int64)
    fold[order] = np.arange(len(topics)) % FOLDS
    return fold


def _semantics(places: Places, topics: Sequence[str], fold: Mapping[int, int]) -> Task:
    """One example a document, of the tokens in `places`."""
    names = [None if topic in NO_TOPIC else topic for topic in topics]
    examples = [Example(name, *place) for name, place in zip(names, places.items(), strict=True)]
    return _folded(examples, fold, "documents without a topic")


def _syntax(
    places: Places, ids: Int[np.ndarray, " positions"], tokenizer: PreTrainedTokenizerBase, fold: Mapping[int, int]
) -> Task:
    """One example a token, of the tokens that carry a word."""
    if tagger_version() is None:
        return _nothing(MISSING)
    few = [list(places)[i] for i in _choice(len(places), TAGGED_DOCUMENTS)]
    spelled = {number: spans_of_tokens(tokenizer, ids[places[number]].tolist()) for number in few}
    found = {number: each for number, each in spelled.items() if each is not None}
    tagged = tag_words([text for text, _ in found.values()])
    examples = [
        Example(tag, number, places[number][i : i + 1])
        for (number, (_, spans)), words in zip(found.items(), tagged, strict=True)
        for i, tag in enumerate(tags_of_tokens(spans, words))
    ]
    sample = [examples[i] for i in _choice(len(examples), TAGGED_TOKENS)]
    task = _folded(sample, fold, "tokens without a word")
    unlike = {"documents that are tokenised in another way than stored": len(few) - len(found)}
    return replace(task, left_out=task.left_out | unlike)


def _context(places: Places, store: ActivationStore) -> Task:
    """One example a token; a document is a class."""
    length = TRAIN_TOKENS + GAP_TOKENS + TEST_TOKENS
    ends = {number: where[-length:] for number, where in places.items() if len(where) >= length}
    fitting = [number for number, where in ends.items() if where[0] // store.context == where[-1] // store.context]
    chosen = [fitting[i] for i in _choice(len(fitting), CONTEXT_DOCUMENTS)]
    left_out = {"documents without enough tokens at the end of one row": len(places) - len(fitting)}
    if len(chosen) < MIN_CLASSES:
        return _nothing(
            f"{len(chosen)} documents end with {length} tokens in one row, needed are {MIN_CLASSES}", left_out
        )
    used = np.r_[:TRAIN_TOKENS, length - TEST_TOKENS : length]
    label = np.repeat(np.arange(len(chosen)), len(used))
    to_train = np.tile(used < TRAIN_TOKENS, len(chosen))
    tokens = np.concatenate([ends[number][used] for number in chosen])
    names = store.documents["id"].astype(str).to_numpy()[chosen].tolist()
    split = np.flatnonzero(to_train), np.flatnonzero(~to_train)
    return Task(names, label, np.array(chosen)[label], tokens, np.arange(len(tokens)), [split], left_out)


def _folded(examples: Sequence[Example], fold: Mapping[int, int], unnamed: str) -> Task:
    """The task of telling the names of examples, without rare classes; documents never lie in two folds."""
    everything = Counter(example.name for example in examples)
    left_out = {unnamed: everything.pop(None, 0)}
    occurs = Counter(name for name, _ in {(example.name, example.document) for example in examples})
    classes = sorted(str(name) for name in everything if occurs[name] >= MIN_DOCUMENTS)
    left_out |= {f"{name}, in too few documents": everything[name] for name in everything if name not in classes}
    if len(classes) < MIN_CLASSES:
        return _nothing(
            f"{len(classes)} classes occur in {MIN_DOCUMENTS} documents or more, needed are {MIN_CLASSES}", left_out
        )
    used = [example for example in examples if example.name in classes]
    label = np.array([classes.index(str(example.name)) for example in used])
    document = np.array([example.document for example in used])
    part = np.array([fold[example.document] for example in used])
    splits = [(np.flatnonzero(part != each), np.flatnonzero(part == each)) for each in np.unique(part)]
    example = np.repeat(np.arange(len(used)), [len(each.tokens) for each in used])
    tokens = np.concatenate([each.tokens for each in used])
    return Task(classes, label, document, tokens, example, splits, left_out)


def _nothing(reason: str, left_out: dict[str, int] | None = None) -> Task:
    none = np.empty(0, dtype=np.int64)
    return Task([], none, none, none, none, [], left_out or {}, reason)
