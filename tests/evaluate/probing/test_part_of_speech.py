"""Parts of speech of sub-word tokens."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stages.evaluate.probing.part_of_speech import Word, spans_of_tokens, tag_words, tags_of_tokens
from tests.tiny import SENTENCES, tiny_tokenizer

TEXT = "  The tiny\n\nmitochondria aren't naïve, 3.5 % of (France)!  "


def spaces_are_symbols() -> PreTrainedTokenizerFast:
    """A BPE that joins over spaces and writes them as a symbol, with bytes for what it does not know, as Gemma's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", "<bos>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")


TOKENIZERS = {"bytes": tiny_tokenizer, "symbols": spaces_are_symbols}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


def numbered_words(text: str) -> list[Word]:
    """Every run of letters and every mark is a word of its own kind."""
    return [Word(*found.span(), f"kind {i}") for i, found in enumerate(re.finditer(r"\w+|[^\w\s]", text))]


def test_every_sub_word_has_the_tag_of_its_word(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    found = spans_of_tokens(tokenizer, ids)
    assert found is not None
    text, spans = found
    assert text == TEXT
    words = numbered_words(text)
    tags = tags_of_tokens(spans, words)
    assert len(tags) == len(ids)
    for (start, end), tag in zip(spans, tags, strict=True):
        touched = [w.tag for w in words if any(w.start <= c < w.end for c in range(start, end))]
        assert tag == (touched[0] if len(touched) == 1 else None)
    (long,) = (word for word in words if text[word.start : word.end] == "mitochondria")
    assert tags.count(long.tag) > 1
    assert len(set(tags) - {None}) > len(words) - 2


def test_white_space_and_tokens_of_two_words_have_no_tag() -> None:
    words = [Word(1, 4, "NOUN"), Word(4, 5, "PUNCT"), Word(6, 9, "VERB")]
    spans = [(0, 1), (0, 3), (3, 5), (5, 9), (5, 6), (4, 7)]
    assert tags_of_tokens(spans, words) == [None, "NOUN", None, "VERB", None, None]
    assert tags_of_tokens([(0, 2)], []) == [None]
    assert tags_of_tokens([], words) == []


def test_tokens_that_are_not_those_of_their_text_have_no_spans() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("naïve", add_special_tokens=False)
    whole, cut = spans_of_tokens(tokenizer, ids), spans_of_tokens(tokenizer, ids[:3])
    assert whole is not None
    assert whole[0] == "naïve"
    assert cut is None  # within the two bytes of a character


def test_text_that_spells_a_special_token_stays_text() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a <bos> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.bos_token_id not in ids
    assert spans_of_tokens(tokenizer, ids) is not None


def test_the_tagger_knows_words_in_their_sentence() -> None:
    [first, second, empty] = tag_words(["She walks home.", "The evening walks were  long.", ""])
    assert [word.tag for word in first] == ["PRON", "VERB", "ADV", "PUNCT"]
    assert [word.tag for word in second] == ["DET", "NOUN", "NOUN", "AUX", "ADJ", "PUNCT"]
    assert [(word.start, word.end) for word in second][3:5] == [(18, 22), (24, 28)]
    assert empty == []
