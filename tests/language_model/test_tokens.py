from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.language_model.corpus import Document
from stages.language_model.tokens import Packer, packed, tokenise
from store.documents import split_of
from tests.tiny import SENTENCES, tiny_tokenizer

BOS, PAD, CONTEXT = 2, 0, 7
ids = st.lists(st.integers(3, 99), min_size=1, max_size=30)
corpora = st.lists(st.tuples(ids, st.sampled_from(["train", "heldout"])), max_size=12)


def run(packer: Packer, corpus: list[tuple[list[int], str]]) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Rows of tokens, rows of document numbers, and how many tokens of each document went in."""
    tokens, document, sizes = [], [], []
    for document_ids, split in corpus:
        if packer.full:
            break
        size, rows = packer.add(np.array(document_ids, np.int32), split)
        tokens += rows[0].tolist()
        document += rows[1].tolist()
        sizes += [size] * (size > 0)
    last = packer.finish()
    return tokens + last[0].tolist(), document + last[1].tolist(), sizes


def literal_concat(corpus: list[tuple[list[int], str]], context: int) -> dict[str, list[tuple[list[int], list[int]]]]:
    """Token by token: the slow reference for `concat`, rows of (tokens, documents) by split."""
    rows: dict[str, list[tuple[list[int], list[int]]]] = {}
    for split in ("train", "heldout"):
        done: list[tuple[list[int], list[int]]] = []
        tokens: list[int] = []
        document: list[int] = []
        for number, (document_ids, where) in enumerate(corpus):
            if where != split:
                continue
            if tokens:
                tokens, document = [*tokens, BOS], [*document, -1]
            for token in document_ids:
                if len(tokens) == context:
                    done.append((tokens, document))
                    tokens, document = [], []
                if not tokens:
                    tokens, document = [BOS], [-1]
                tokens, document = [*tokens, token], [*document, number]
            if len(tokens) == context:
                done.append((tokens, document))
                tokens, document = [], []
        if tokens:
            padding = context - len(tokens)
            done.append((tokens + [PAD] * padding, document + [-1] * padding))
        rows[split] = done
    return rows


@settings(deadline=None)
@given(corpora, st.integers(2, 12))
def test_concat_equals_the_literal_reference(corpus: list[tuple[list[int], str]], context: int) -> None:
    tokens, document, _ = run(Packer(context, "concat", BOS, PAD), corpus)
    expected = literal_concat(corpus, context)
    assert sorted(zip(tokens, document, strict=True)) == sorted(expected["train"] + expected["heldout"])
    for split, rows in expected.items():  # each split keeps the order of its documents
        own = {number for number, (_, where) in enumerate(corpus) if where == split}
        found = [(t, d) for t, d in zip(tokens, document, strict=True) if own & set(d)]
        assert found == rows


@settings(deadline=None)
@given(st.lists(ids, min_size=1, max_size=12), st.integers(2, 12))
def test_concat_equals_saelens(documents: list[list[int]], context: int) -> None:
    batching = pytest.importorskip("sae_lens.tokenization_and_batching")
    theirs = batching.concat_and_batch_sequences(
        iter([torch.tensor(document) for document in documents]),
        context,
        begin_batch_token_id=BOS,
        sequence_separator_token_id=BOS,
    )
    ours, _, _ = run(Packer(context, "concat", BOS, PAD), [(document, "train") for document in documents])
    theirs = [row.tolist() for row in theirs]
    assert ours[: len(theirs)] == theirs
    assert len(ours) - len(theirs) <= 1  # SAELens drops the unfinished row, which we pad


@settings(deadline=None)
@given(corpora, st.integers(2, 12))
def test_per_document(corpus: list[tuple[list[int], str]], context: int) -> None:
    tokens, document, sizes = run(Packer(context, "per_document", BOS, PAD), corpus)
    assert sizes == [min(len(document_ids), context - 1) for document_ids, _ in corpus]
    for number, ((document_ids, _), size) in enumerate(zip(corpus, sizes, strict=True)):
        padding = context - 1 - size
        assert tokens[number] == [BOS, *document_ids[:size], *[PAD] * padding]
        assert document[number] == [-1, *[number] * size, *[-1] * padding]
    assert len(tokens) == len(corpus)


@settings(deadline=None)
@given(corpora, st.sampled_from(["concat", "per_document"]), st.integers(1, 60))
def test_a_limit_cuts_and_never_overruns(corpus: list[tuple[list[int], str]], packing: str, limit: int) -> None:
    unlimited, _, _ = run(Packer(CONTEXT, packing, BOS, PAD), corpus)
    packer = Packer(CONTEXT, packing, BOS, PAD, limit)
    tokens, document, sizes = run(packer, corpus)
    assert len(tokens) == min(len(unlimited), -(-limit // CONTEXT)) or not packer.full
    assert len(tokens) <= -(-limit // CONTEXT)
    flat = [number for row in document for number in row if number >= 0]
    assert [flat.count(number) for number in range(len(sizes))] == sizes


@settings(deadline=None)
@given(corpora, st.sampled_from(["concat", "per_document"]))
def test_rows_never_mix_splits_and_lose_no_token(corpus: list[tuple[list[int], str]], packing: str) -> None:
    tokens, document, sizes = run(Packer(CONTEXT, packing, BOS, PAD), corpus)
    for row in document:
        assert len({corpus[number][1] for number in row if number >= 0}) == 1
    for number, (document_ids, _) in enumerate(corpus):
        found = [
            token
            for row, owners in zip(tokens, document, strict=True)
            for token, owner in zip(row, owners, strict=True)
            if owner == number
        ]
        assert found == document_ids[: sizes[number]]
        assert packing == "per_document" or len(found) == len(document_ids)


def documents(n: int) -> list[Document]:
    return [Document(str(i), f"{SENTENCES[i % 5]} {i}", "test", "topic") for i in range(n)]


def test_stream_agrees_with_one_document_at_a_time() -> None:
    tokenizer, texts = tiny_tokenizer(), documents(600)
    steps = list(packed(texts, tokenizer, context=16, packing="concat", heldout=0.2, bos_id=BOS, pad_id=PAD))
    table = [document for step in steps for document in step.documents]
    assert [document.id for document in table] == [document.id for document in texts]
    assert all(document.split == split_of(text.text, 0.2) for document, text in zip(table, texts, strict=True))
    assert {document.split for document in table} == {"train", "heldout"}
    corpus = [(tokenizer(text.text, add_special_tokens=False).input_ids, split_of(text.text, 0.2)) for text in texts]
    tokens, numbers, sizes = run(Packer(16, "concat", BOS, PAD), corpus)
    assert np.concatenate([step.tokens for step in steps]).tolist() == tokens
    assert np.concatenate([step.document for step in steps]).tolist() == numbers
    assert [document.n_tokens for document in table] == sizes
    known = 0
    for step in steps:  # a row names only documents that have been announced
        known += len(step.documents)
        assert step.document.max() < known
        assert step.tokens.dtype == step.document.dtype == np.int32


@pytest.mark.parametrize("packing", ["concat", "per_document"])
def test_stream_stops_at_the_limit(packing: str) -> None:
    read = iter(documents(5000))
    steps = packed(read, tiny_tokenizer(), context=16, packing=packing, heldout=0.1, bos_id=BOS, pad_id=PAD, limit=1600)
    assert sum(len(step.tokens) for step in steps) == 100
    assert next(read, None) is not None  # the rest of the corpus was never read


def test_text_cannot_make_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    texts = [Document("a", "before <bos> between <eos> after <pad>", "test"), Document("b", "", "test")]
    ((document, found),) = list(tokenise(texts, tokenizer))
    assert document.id == "a"
    assert not set(found.tolist()) & {0, 1, 2}
    assert tokenizer.decode(found) == texts[0].text
