"""Questions and texts: what is read, what is made, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.material import Files, read_material
from stages.unlearn.questions import Article, make_questions, read_questions
from stages.unlearn.text import pack, read_texts
from store.problem import Problem
from tests.tiny import SENTENCES, tiny_model_folder

GOOD = {"question": "Which?", "choices": ["one", "two", "three"], "answer": 2}


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_are_read(tmp_path: Path) -> None:
    found = read_questions(lines(tmp_path / "human_aging.jsonl", [GOOD, {**GOOD, "choices": ["a", "b"], "answer": 0}]))
    assert (found.name, found.subject) == ("human_aging", "human aging")
    assert [(len(q.choices), q.answer) for q in found.questions] == [(3, 2), (2, 0)]


def test_a_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    row = json.dumps({**GOOD, "question": "One\u2028two?"}, ensure_ascii=False)
    (tmp_path / "some.jsonl").write_text(f"{row}\r\n{row}\n", encoding="utf-8")
    assert [q.text for q in read_questions(tmp_path / "some.jsonl").questions] == ["One\u2028two?"] * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "answer": 3}, "out of range"),
        ({**GOOD, "answer": -1}, "out of range"),
        ({**GOOD, "choices": ["one"]}, "choices are wrong"),
        ({**GOOD, "choices": ["one", "one"]}, "choices are wrong"),
        ({"question": "Which?", "answer": 0}, "no question"),
        ({**GOOD, "answer": "2"}, "no question"),
        (["a", "list"], "no question"),
    ],
)
def test_a_wrong_question_is_refused_with_its_line(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(Problem, match=message) as problem:
        read_questions(lines(tmp_path / "some.jsonl", [GOOD, row]))
    assert "line 2" in str(problem.value)


def test_files_that_are_no_questions(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text('{"question": ')
    with pytest.raises(Problem, match="not JSON"):
        read_questions(tmp_path / "torn.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(Problem, match="empty"):
        read_questions(tmp_path / "empty.jsonl")
    with pytest.raises(Problem, match="cannot be read"):
        read_questions(tmp_path / "absent.jsonl")


def test_questions_are_made_of_articles() -> None:
    articles = [Article(f"Thing {i}", f"kind of object {i}", "Things") for i in range(30)]
    articles += [Article(name, "family of things", "Things") for name in ("Hammer", "Nail")]  # one answer to both
    articles += [Article("Lamp", "a lamp on a desk", "Things"), Article("Void", "", "Things")]
    articles += [Article(f"City {i}", f"place {i}", "Places") for i in range(3)]  # too few to choose among
    (found,) = make_questions(articles, 20, seed=0)
    assert found.name == "Things" and len(found.questions) == 20
    right = {article.title: article.description for article in articles}
    for question in found.questions:
        title = question.text.removeprefix("What is ").removesuffix("?")
        assert question.choices[question.answer] == right[title] and len(set(question.choices)) == 4
    assert {q.answer for q in found.questions} == {0, 1, 2, 3}
    assert make_questions(articles, 20, seed=0) == [found]
    assert make_questions(articles, 20, seed=1) != [found]
    asked = " ".join(question.text for question in make_questions(articles, 99, seed=0)[0].questions)
    assert not any(name in asked for name in ("Lamp", "Void", "Hammer", "Nail"))


def test_texts_are_read(tmp_path: Path) -> None:
    assert read_texts(lines(tmp_path / "t.jsonl", [{"text": "x" * 60}, {"text": "short"}])) == ["x" * 60]
    with pytest.raises(Problem, match="none to read"):
        read_texts(lines(tmp_path / "t.jsonl", [{"text": "short"}]))
    with pytest.raises(Problem, match="no text") as problem:
        read_texts(lines(tmp_path / "t.jsonl", [{"text": "x" * 60}, {"txt": "y" * 60}]))
    assert "line 2" in str(problem.value)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), "gpt2")
    return load(ModelConfig("tiny", str(folder), dtype="float32"))


def test_texts_are_packed_into_full_rows(lm: LanguageModel) -> None:
    rows = pack(list(SENTENCES) * 5, lm, 16, 7, seed=0)
    assert rows.tokens.shape == rows.segments.shape == (7, 16)
    assert (rows.tokens[:, 0] == lm.bos_id).all() and (rows.segments[:, 0] == -1).all()
    assert np.array_equal(rows.segments == -1, rows.tokens == lm.bos_id)
    assert not np.array_equal(rows.tokens, pack(list(SENTENCES) * 5, lm, 16, 7, seed=1).tokens)


def test_text_that_gives_no_full_row_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(Problem, match="no full sequence"):
        pack(["Paris."], lm, 128, 7, seed=0)


@pytest.mark.parametrize(
    ("files", "topic", "message"),
    [
        (("forget.jsonl", None, ()), None, "belong together"),
        ((None, None, ()), None, "Nothing says what to forget"),
        ((None, None, ()), "Biology", "no such topic"),
        (("forget.jsonl", "retain.jsonl", ("questions.jsonl",)), None, "on what to forget, and others"),
    ],
)
def test_material_that_is_missing_is_named(tmp_path: Path, files: tuple, topic: str | None, message: str) -> None:
    for name in ("forget", "retain"):
        lines(tmp_path / f"{name}.jsonl", [{"text": "x" * 60}])
    lines(tmp_path / "questions.jsonl", [GOOD])
    forget, retain, questions = files
    named = Files(
        forget and tmp_path / forget, retain and tmp_path / retain, tuple(tmp_path / each for each in questions)
    )
    corpus = CorpusConfig(str(lines(tmp_path / "corpus.jsonl", [{"text": "x" * 60}])))
    with pytest.raises(Problem, match=message):
        read_material(named, corpus, UnlearnConfig(forget_topic=topic))


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"multipliers": ()}, {"n_latents": (-1,)}, {"windows": (8,)}])
def test_a_sweep_that_cannot_be_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(Problem, match=f"unlearn.{next(iter(wrong))}"):
        UnlearnConfig(**wrong)
