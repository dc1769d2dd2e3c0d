"""Where sentences end."""

from __future__ import annotations

import numpy as np
import pytest

from stages.evaluate.temporal.sentences import SentenceEnds

TEXTS = {
    "sentencepiece": ["▁He", "▁left", ".", "▁Then", "▁3", "5", '."', "▁“", "Why", "?”", "\n", "▁Mr", "!)", "..."],
    "byte-level": ["ĠHe", "Ġleft", ".", "ĠThen", "Ġ3", "5", '."', 'Ġ"', "Why", '?"', "Ċ", "ĠMr", "!)", "..."],
}


class Tokenizer:
    """As much of one as is asked."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.texts[i] for i in ids]


@pytest.mark.parametrize("kind", TEXTS)
def test_sentences_end_at_points_that_a_space_or_line_follows(kind: str) -> None:
    ends = SentenceEnds(Tokenizer(TEXTS[kind]))  # type: ignore[arg-type]
    left = [0, 1, 2, 3, 4, 2, 5, 6, 7, 8, 9, 10, 0, 12, 3]
    quoted = [4, 5, 13, 0, 1, 2, 2, 3, 9, 8, 6, 3, 1, 1, 2]
    found = ends(np.array([left, quoted]))
    assert np.flatnonzero(found[0]).tolist() == [2, 7, 10, 13]  # not in 3.5, and `."` before a quotation
    assert np.flatnonzero(found[1]).tolist() == [2, 6, 10]  # not at the end of the row
