"""Multiple-choice questions: read from files or the hub, or made of articles."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from stages.unlearn.lines import read_lines
from store.problem import Problem

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of choices."""
WMDP = "wmdp-bio"
"""The questions of WMDP (Li et al. 2024, arXiv 2403.03218) about what is to be forgotten."""
MMLU = ("high_school_us_history", "college_computer_science", "high_school_geography", "human_aging")
"""The subjects of MMLU that SAEBench wants kept."""
SUBJECTS = {WMDP: "biology"}
"""What SAEBench's prompts say of sets whose names do not say it."""
CHOICES = 4
"""Choices of a question that is made of articles."""


@dataclass(frozen=True)
class Question:
    """One question."""

    text: str
    """The question."""
    choices: tuple[str, ...]
    """Possible answers."""
    answer: int
    """Which of them is right."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions on one subject."""

    name: str
    """What tables call it."""
    subject: str
    """What a prompt says they are about."""
    questions: tuple[Question, ...]
    """In order."""


@dataclass(frozen=True)
class Article:
    """What questions are made of."""

    title: str
    """A name."""
    description: str
    """What it is, in a few words."""
    topic: str
    """Its topic."""


def read_questions(path: Path) -> QuestionSet:
    """Questions of a JSONL file, `{"question", "choices", "answer"}` a line, `answer` counted from 0.

    Raises:
        Problem: it cannot be read or holds none, with the first line that is wrong.
    """
    found = [_question(row, where) for row, where in read_lines(path, "question")]
    if not found:
        raise Problem("A file of questions is empty.", where=path, expected="one question a line")
    return QuestionSet(path.stem, subject_of(path.stem), tuple(found))


def subject_of(name: str) -> str:
    """What a prompt says that the questions of a set are about."""
    return SUBJECTS.get(name, name.replace("_", " ").replace("-", " "))


def _question(row: Any, where: str) -> Question:
    keys = {"question": str, "choices": list, "answer": int}
    if not isinstance(row, dict) or any(type(row.get(key)) is not kind for key, kind in keys.items()):
        raise Problem(
            "This is no question.",
            where=where,
            expected='{"question": text, "choices": [text, ...], "answer": number}',
            found=json.dumps(row, ensure_ascii=False)[:80],
        )
    choices, answer = tuple(map(str, row["choices"])), int(row["answer"])
    if not 2 <= len(choices) <= len(LETTERS) or len(set(choices)) < len(choices):
        raise Problem(
            "A question's choices are wrong.",
            where=where,
            expected=f"2 to {len(LETTERS)} different ones",
            found=choices,
        )
    if not 0 <= answer < len(choices):
        raise Problem(
            "A question's answer is out of range.",
            where=where,
            expected=f"the place of a choice, 0 to {len(choices) - 1}",
            found=answer,
        )
    return Question(str(row["question"]), choices, answer)


def hub_questions() -> list[QuestionSet]:
    """Those of SAEBench: WMDP-bio, to be forgotten, and four subjects of MMLU, all rows as they are.

    SAEBench also asks a question that has the same choice twice.

    Raises:
        Problem: the hub cannot be reached.
    """
    places = {WMDP: ("cais/wmdp", WMDP), **{subject: ("cais/mmlu", subject) for subject in MMLU}}
    found = []
    for name, (repository, part) in places.items():
        try:
            rows = datasets.load_dataset(repository, part, split="test")
        except Exception as error:  # the HTTP library behind the hub client raises classes of its own
            raise Problem(
                f"The questions of {repository} cannot be had from the hub.",
                where=f"huggingface.co/datasets/{repository}",
                found=f"{type(error).__name__}: {error}",
                do="name files of questions with --questions",
            ) from error
        questions = tuple(Question(row["question"], tuple(row["choices"]), row["answer"]) for row in rows)
        found.append(QuestionSet(name, subject_of(name), questions))
    return found


def make_questions(articles: Iterable[Article], per_topic: int, seed: int) -> list[QuestionSet]:
    """For each topic, questions that ask for an article's description among those of other articles of the topic.

    A description that several articles of the topic have, or that names its article, would answer nothing.
    """
    by_topic: dict[str, list[Article]] = {}
    articles = list(articles)
    shared = Counter((article.topic, article.description) for article in articles)
    for article in articles:
        alone = shared[article.topic, article.description] == 1
        if article.description and alone and article.title.lower() not in article.description.lower():
            by_topic.setdefault(article.topic, []).append(article)
    found = []
    for topic, members in sorted(by_topic.items()):
        rng = np.random.default_rng([seed, *topic.encode()])
        questions = _questions_of(members, per_topic, rng)
        if questions:
            found.append(QuestionSet(topic, topic.lower(), tuple(questions)))
    return found


def _questions_of(articles: Sequence[Article], count: int, rng: np.random.Generator) -> list[Question]:
    descriptions = sorted(article.description for article in articles)
    if len(descriptions) < CHOICES:
        return []
    questions = []
    for index in rng.permutation(len(articles))[:count]:
        article = articles[index]
        others = [text for text in descriptions if text != article.description]
        wrong = [others[i] for i in rng.choice(len(others), CHOICES - 1, replace=False)]
        answer = int(rng.integers(CHOICES))
        choices = (*wrong[:answer], article.description, *wrong[answer:])
        questions.append(Question(f"What is {article.title}?", choices, answer))
    return questions
