"""How a language model answers: by the letter of a choice, or by the probability of its text."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stages.language_model.model import LanguageModel
from stages.language_model.quiet import quiet
from stages.unlearn.config import ScoringName
from stages.unlearn.questions import LETTERS, Question
from store.problem import Problem

INTRODUCTION = "The following are multiple choice questions (with answers) about {subject}.\n"
CHAT = ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\nAnswer: (")
"""Around a question for Gemma models that were trained to answer, as SAEBench has it."""
PLAIN = ("", "\nAnswer:")
"""The same for all others, as lm-evaluation-harness has it."""
TURN, INSTRUCTED = "<start_of_turn>", re.compile(r"-it(?![a-z0-9])", re.IGNORECASE)
"""A model whose tokenizer has this token, and whose name has this in it, is one of the first kind."""


MOST_CHOICES = 6
"""Of a question that is asked in every order of its choices: 720 orders."""


class Prompt(NamedTuple):
    """A row of tokens of which the model's predictions from a position on count."""

    tokens: list[int]
    """BOS first."""
    start: int
    """The first position that counts; its prediction is of the next token."""


class Scoring(ABC):
    """Makes prompts of questions, and scores of predictions."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    @property
    @abstractmethod
    def kind(self) -> str:
        """What its prompts are called in results."""

    @abstractmethod
    def orders(self, question: Question) -> Iterator[tuple[int, ...]]:
        """Orders of the choices in which a question has to be answered rightly to count as known."""

    @abstractmethod
    def prompts(self, question: Question, subject: str, order: Sequence[int]) -> list[Prompt]:
        """What the model is asked, its choices in an order."""

    @abstractmethod
    def scores(self, logits: Float[Tensor, "positions vocab"], prompt: Prompt) -> list[float]:
        """Scores of the choices that a prompt is about, in their order, of the logits at its counted positions."""

    def _ids(self, text: str) -> list[int]:
        with quiet():
            ids: list[int] = self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class LetterScoring(Scoring):
    """SAEBench's: the letter whose token, with or without a space before it, is the most probable next one."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm)
        self._instructed = INSTRUCTED.search(lm.name) is not None and len(self._ids(TURN)) == 1
        self._before, self._after = CHAT if self._instructed else PLAIN
        spellings = [[self._ids(space + letter) for letter in LETTERS[:MOST_CHOICES]] for space in ("", " ")]
        single = [[ids[0] for ids in letters] for letters in spellings if all(len(ids) == 1 for ids in letters)]
        if not single:
            raise Problem(
                "This tokenizer has no tokens for the letters of choices.",
                expected=f"one token for each of {', '.join(LETTERS[:MOST_CHOICES])}",
                do="set unlearn.scoring to completion",
            )
        self._letters = torch.tensor(single)

    @property
    def kind(self) -> str:
        return "letter, as a chat" if self._instructed else "letter"

    def orders(self, question: Question) -> Iterator[tuple[int, ...]]:
        """All of them: a model that always says A knows nothing."""
        n = len(question.choices)
        if n > MOST_CHOICES:
            raise Problem(
                "A question has too many choices to be asked in every order of them.",
                where=question.text[:80],
                expected=f"at most {MOST_CHOICES}",
                found=n,
                do="set unlearn.scoring to completion",
            )
        return permutations(range(n))

    def prompts(self, question: Question, subject: str, order: Sequence[int]) -> list[Prompt]:
        choices = "".join(f"\n{LETTERS[place]}. {question.choices[i]}" for place, i in enumerate(order))
        text = INTRODUCTION.format(subject=subject) + question.text + choices
        ids = [self.lm.bos_id, *self._ids(self._before + text + self._after)]
        return [Prompt(ids, len(ids) - 1)]

    def scores(self, logits: Float[Tensor, "positions vocab"], prompt: Prompt) -> list[float]:
        scores: list[float] = logits[0][self._letters.to(logits.device)].amax(0).tolist()
        return scores


class CompletionScoring(Scoring):
    """The mean log-probability of a choice's tokens after the question, whatever the order of the choices."""

    kind = "completion"

    def orders(self, question: Question) -> Iterator[tuple[int, ...]]:
        yield tuple(range(len(question.choices)))

    def prompts(self, question: Question, subject: str, order: Sequence[int]) -> list[Prompt]:
        asked = [self.lm.bos_id, *self._ids(f"Question: {question.text}\nAnswer:")]
        answers = [self._ids(f" {question.choices[i]}") for i in order]
        return [Prompt([*asked, *answer], len(asked) - 1) for answer in answers]

    def scores(self, logits: Float[Tensor, "positions vocab"], prompt: Prompt) -> list[float]:
        answer = torch.tensor(prompt.tokens[prompt.start + 1 :], device=logits.device)
        return [float(logits[:-1].log_softmax(-1).gather(1, answer.unsqueeze(1)).mean())]


def scoring_of(name: ScoringName, lm: LanguageModel) -> Scoring:
    """By its name."""
    return LetterScoring(lm) if name == "letter" else CompletionScoring(lm)
