"""What an unlearning works on: text to forget and to retain, and questions on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.language_model.config import PACKAGE, CorpusConfig
from stages.language_model.corpus import documents
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.questions import CHOICES, Article, QuestionSet, hub_questions, make_questions, read_questions
from stages.unlearn.text import read_texts
from store.problem import Problem


@dataclass(frozen=True)
class Files:
    """Local files that stand for the profile's material."""

    forget: Path | None = None
    """JSONL with the text to forget."""
    retain: Path | None = None
    """JSONL with the text to retain."""
    questions: tuple[Path, ...] = ()
    """JSONL with questions: on what to forget first, then on what to keep."""


@dataclass(frozen=True)
class Material:
    """Everything that is read before the model is."""

    forget: Sequence[str]
    """Texts."""
    retain: Sequence[str]
    """Texts."""
    questions: Sequence[QuestionSet]
    """Those on what is to be forgotten come first."""

    @property
    def forget_set(self) -> str:
        """Name of the first set."""
        return self.questions[0].name


def read_material(files: Files, corpus: CorpusConfig, config: UnlearnConfig) -> Material:
    """From files where they are named, else from the articles of a corpus with topics.

    Questions of WMDP and MMLU come from the hub where texts are named and questions are not, as in SAEBench.

    Raises:
        Problem: something is missing, with what could supply it.
    """
    if (files.forget is None) != (files.retain is None):
        raise Problem(
            "Text to forget and text to retain belong together.",
            expected="--forget and --retain",
            found="--forget alone" if files.forget else "--retain alone",
            usage=True,
        )
    if files.forget is not None and files.retain is not None:
        questions = [read_questions(path) for path in files.questions] if files.questions else hub_questions()
        return _checked(Material(read_texts(files.forget), read_texts(files.retain), questions))
    if config.forget_topic is None:
        raise Problem(
            "Nothing says what to forget.",
            expected="--forget and --retain with files of text, or unlearn.forget_topic in params.yaml",
            do="the text that SAEBench uses, the forget corpus of WMDP, is handed out on request only: name your copy",
            usage=True,
        )
    material = _of_topic(config.forget_topic, corpus, config)
    if files.questions:
        questions = [read_questions(path) for path in files.questions]
        material = Material(material.forget, material.retain, questions)
    elif material.forget_set != config.forget_topic:
        raise Problem(
            "The corpus gives no questions on the topic to forget.",
            where=corpus.source,
            expected=f"{CHOICES} articles or more on {config.forget_topic} with descriptions of their own",
            found=f"fewer, of {len(material.forget)}",
            do="name another topic in params.yaml (unlearn.forget_topic), or files with --questions",
            usage=True,
        )
    return _checked(material)


def _of_topic(topic: str, corpus: CorpusConfig, config: UnlearnConfig) -> Material:
    """Text and questions of a topic, and of all others."""
    if not corpus.source.startswith(PACKAGE):  # else all of a hub's text would be read before it is refused
        raise Problem(
            "The corpus has no topics.",
            where=corpus.source,
            expected="the encyclopaedia of the embedded profile, the one corpus with topics",
            do="name files with --forget and --retain",
            usage=True,
        )
    every = list(documents(corpus))
    topics = sorted({document.label for document in every if document.label})
    if topic not in topics:
        raise Problem(
            "The corpus has no such topic.",
            where=corpus.source,
            expected=f"one of {', '.join(topics)}",
            found=topic,
            do="name one in params.yaml (unlearn.forget_topic), or files with --forget and --retain",
            usage=True,
        )
    articles = [Article(each.id, each.description, each.label) for each in every]
    made = make_questions(articles, config.questions_per_topic, config.seed)
    made.sort(key=lambda questions: questions.name != topic)
    forget = [document.text for document in every if document.label == topic]
    retain = [document.text for document in every if document.label != topic]
    return Material(forget, retain, made)


def _checked(material: Material) -> Material:
    names = [questions.name for questions in material.questions]
    if len(names) < 2 or len(set(names)) < len(names):
        raise Problem(
            "There have to be questions on what to forget, and others on what to keep.",
            expected="two or more files of different names, that on what to forget first",
            found=", ".join(names) or "none",
            do="name them with --questions",
            usage=True,
        )
    return material
