"""Questions and texts: what is read, what is made, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.material import Files, read_material
from stages.unlearn.questions import MMLU, WMDP, Article, hub_questions, make_questions, read_questions
from stages.unlearn.text import pack, read_texts
from store.problem import Problem
from tests.tiny import SENTENCES, tiny_model_folder
from tests.unlearn.articles import COUNT, TOPICS, install_articles

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
        ({**GOOD, "answer": True}, "no question"),
        ({**GOOD, "question": "\ud800"}, "no question|not JSON"),
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


@pytest.mark.parametrize(
    ("name", "subject"),
    [(WMDP, "biology"), ("high_school_us_history", "high school us history"), ("my-own_set", "my own set")],
)
def test_prompts_call_a_set_what_saebench_calls_it(tmp_path: Path, name: str, subject: str) -> None:
    assert read_questions(lines(tmp_path / f"{name}.jsonl", [GOOD])).subject == subject


class Hub:
    """Stands for `datasets.load_dataset`; its rows have the columns of WMDP and MMLU."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, repository: str, part: str, split: str) -> datasets.Dataset:
        self.asked.append((repository, part, split))
        choices = [["one", "two", "three", "four"], ["A is true", "B is true", "both", "both"]]
        columns = {
            "question": datasets.Value("string"),
            "choices": datasets.Sequence(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=["A", "B", "C", "D"]),
        }
        rows = {"question": [f"Which of {part}?", "Which is it?"], "choices": choices, "answer": [1, 3]}
        if repository == "cais/mmlu":
            columns["subject"], rows["subject"] = datasets.Value("string"), [part, part]
        return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def test_the_questions_of_the_hub_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr("datasets.load_dataset", hub)
    found = hub_questions()
    assert hub.asked == [("cais/wmdp", WMDP, "test"), *(("cais/mmlu", name, "test") for name in MMLU)]
    assert [each.name for each in found] == [WMDP, *MMLU]
    assert [each.subject for each in found] == ["biology", *(name.replace("_", " ") for name in MMLU)]
    for each in found:
        first, second = each.questions
        assert (first.text, first.choices[first.answer]) == (f"Which of {each.name}?", "two")
        assert second.choices == ("A is true", "B is true", "both", "both") and second.answer == 3


def test_texts_without_questions_are_asked_about_with_those_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", Hub())
    files = Files(*(lines(tmp_path / f"{name}.jsonl", [{"text": name * 60}]) for name in ("forget", "retain")))
    material = read_material(files, CorpusConfig("anything"), UnlearnConfig())
    assert material.forget_set == WMDP and len(material.questions) == 5
    assert (material.forget, material.retain) == (["forget" * 60], ["retain" * 60])


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", away)
    with pytest.raises(Problem, match="cannot be had from the hub") as problem:
        hub_questions()
    assert "no network" in str(problem.value)


def test_a_topic_of_a_corpus_gives_texts_and_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = CorpusConfig(install_articles(tmp_path / "site", monkeypatch))
    material = read_material(Files(), corpus, UnlearnConfig(forget_topic="Places", questions_per_topic=5))
    assert len(material.forget) == COUNT and all(text.startswith("Places ") for text in material.forget)
    assert len(material.retain) == 2 * COUNT and not any(text.startswith("Places ") for text in material.retain)
    assert [each.name for each in material.questions] == ["Places", "Persons", "Things"]
    assert [each.subject for each in material.questions] == ["places", "persons", "things"]
    for each in material.questions:
        assert len(each.questions) == 5
        assert all(choice.startswith(each.name) for question in each.questions for choice in question.choices)
    own = lines(tmp_path / "own.jsonl", [GOOD]), lines(tmp_path / "other.jsonl", [GOOD])
    asked = read_material(Files(questions=own), corpus, UnlearnConfig(forget_topic="Places"))
    assert asked.forget == material.forget and [each.name for each in asked.questions] == ["own", "other"]


def test_a_topic_of_few_articles_gives_no_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = CorpusConfig(install_articles(tmp_path / "site", monkeypatch, {**TOPICS, "Voids": 3}))
    with pytest.raises(Problem, match="no questions on the topic to forget") as problem:
        read_material(Files(), corpus, UnlearnConfig(forget_topic="Voids"))
    assert "fewer, of 3" in str(problem.value)


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


def test_rows_are_parted_without_overlap(lm: LanguageModel) -> None:
    rows = pack(list(SENTENCES) * 5, lm, 16, 7, seed=0)
    for n, expected in ((2, 2), (5, 3)):
        first, others = rows.parted(n)
        assert len(first.tokens) == expected
        assert np.array_equal(np.concatenate([first.tokens, others.tokens]), rows.tokens)
        assert np.array_equal(np.concatenate([first.segments, others.segments]), rows.segments)


def test_a_single_row_cannot_be_parted(lm: LanguageModel) -> None:
    with pytest.raises(Problem, match="too little text") as problem:
        pack(list(SENTENCES), lm, 16, 1, seed=0).parted(4)
    assert "1 of 16 tokens" in str(problem.value)


def test_text_that_gives_no_full_row_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(Problem, match="no full sequence"):
        pack(["Paris."], lm, 128, 7, seed=0)


@pytest.mark.parametrize(
    ("files", "topic", "message"),
    [
        (("forget.jsonl", None, ()), None, "belong together"),
        ((None, None, ()), None, "Nothing says what to forget"),
        ((None, None, ()), "Biology", "has no topics"),
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"multipliers": ()},
        {"multipliers": (10.0, 10.0)},
        {"multipliers": (float("inf"),)},
        {"retain_thresholds": (float("nan"),)},
        {"n_latents": (-1,)},
        {"windows": (8,)},
        {"seed": -1},
    ],
)
def test_a_sweep_that_cannot_be_is_refused_by_name(wrong: dict) -> None:
    with pytest.raises(Problem, match=f"unlearn.{next(iter(wrong))}"):
        UnlearnConfig(**wrong)
