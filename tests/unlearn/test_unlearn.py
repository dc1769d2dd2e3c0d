"""Scoring, RMU and the whole command on a tiny model."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.splice import Splice
from stages.sae.model import SAE
from stages.unlearn.estimate import Estimate
from stages.unlearn.judge import known, losses, untouched
from stages.unlearn.latents import firing_shares
from stages.unlearn.questions import Question, QuestionSet
from stages.unlearn.rmu import RMUConfig, rmu
from stages.unlearn.scoring import CompletionScoring, LetterScoring, Prompt
from stages.unlearn.sweep import outcome
from stages.unlearn.text import Rows, pack
from store.problem import Problem
from tests.project import VARIANTS, TinyProject
from tests.schemas import saebench_schema
from tests.tiny import SENTENCES, tiny_model_folder, tiny_tokenizer
from tests.unlearn.articles import install_articles
from tests.unlearn.saebench import tiny_chat_model, tokenizer_for_chat


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), "gemma2")
    return load(ModelConfig("tiny", str(folder), dtype="float32"))


@torch.no_grad()
def log_probabilities(lm: LanguageModel, tokens: list[int]) -> torch.Tensor:
    """Of each token after the first, by the unmodified model."""
    logits = lm.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return logits[:-1].gather(1, torch.tensor(tokens[1:]).unsqueeze(1)).squeeze(1)


def test_completion_is_the_mean_log_probability_of_the_answer(lm: LanguageModel) -> None:
    questions = tuple(Question(f"Which {i}?", ("Paris", "the cell", "physics in 1905"), i % 3) for i in range(9))
    scoring = CompletionScoring(lm)
    found = known(Splice(lm, 1), scoring, QuestionSet("set", "set", questions), 7)
    expected = []
    for i, question in enumerate(questions):
        scores = []
        for choice in question.choices:
            asked = lm.tokenizer(f"Question: {question.text}\nAnswer:", add_special_tokens=False)["input_ids"]
            answer = lm.tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            every = log_probabilities(lm, [lm.bos_id, *asked, *answer])
            scores.append(every[-len(answer) :].mean().item())
        if int(np.argmax(scores)) == question.answer:
            expected.append(i)
    assert found == expected and 0 < len(found) < 9


class Counting(CompletionScoring):
    """Asks three times, and counts how often each question was asked."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm)
        self.asked: list[str] = []

    def orders(self, question: Question) -> Iterator[tuple[int, ...]]:
        return permutations(range(len(question.choices)))

    def prompts(self, question: Question, subject: str, order: Sequence[int]) -> list[Prompt]:
        self.asked.append(question.text)
        return super().prompts(question, subject, order)


def test_a_question_that_was_answered_wrongly_once_is_not_asked_again(lm: LanguageModel) -> None:
    questions = tuple(Question(f"Which {i}?", ("Paris", "the cell", "physics in 1905"), i % 3) for i in range(9))
    every, once = QuestionSet("set", "set", questions), CompletionScoring(lm)
    scoring = Counting(lm)
    found = known(Splice(lm, 1), scoring, every, 7)
    assert found == known(Splice(lm, 1), once, every, 7)  # to which the order is nothing
    times = Counter(scoring.asked)
    assert {times[question.text] for i, question in enumerate(questions) if i in found} == {6}
    assert {times[question.text] for i, question in enumerate(questions) if i not in found} == {1}


def test_logits_in_blocks_say_what_all_at_once_say(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = tuple(Question(f"Which {i}?", ("Paris", "the cell", "physics in 1905"), i % 3) for i in range(9))
    splice, scoring, every = Splice(lm, 1), CompletionScoring(lm), QuestionSet("set", "set", questions)
    at_once = known(splice, scoring, every, 27)
    sizes: list[int] = []
    whole = splice.logits

    def noting(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return whole(hidden)

    monkeypatch.setattr(splice, "logits", noting)
    monkeypatch.setattr("stages.unlearn.judge.LOGIT_BYTES", 4 * 12 * lm.model.config.vocab_size)
    assert known(splice, scoring, every, 27) == at_once
    assert max(sizes) <= 12 and len(sizes) > 5


def test_a_question_longer_than_the_model_s_positions_is_refused(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm.model.config, "max_position_embeddings", 12)
    long = Question("Which " * 12, ("Paris", "The"), 0)
    with pytest.raises(Problem, match=r"(?s)longer than the language model's positions.*12 tokens"):
        known(Splice(lm, 1), CompletionScoring(lm), QuestionSet("set", "set", (long,)), 7)


@pytest.mark.parametrize(
    ("name", "chat"),
    [("gemma-2-2b-it", True), ("me/gemma-3-1b-IT_q4", True), ("gemma-2-2b", False), ("me/gemma-italian", False)],
)
def test_models_that_were_trained_to_answer_are_asked_in_a_chat(tmp_path: Path, name: str, chat: bool) -> None:
    folder = tiny_chat_model(tmp_path / "model", tokenizer_for_chat(tiny_tokenizer()), 32, layers=3)
    lm = load(ModelConfig(name, str(folder), dtype="float32"))
    scoring = LetterScoring(lm)
    (prompt,) = scoring.prompts(Question("Where?", ("here", "there"), 0), "places", (1, 0))
    text = "The following are multiple choice questions (with answers) about places.\nWhere?\nA. there\nB. here"
    turn, end = ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\nAnswer: (")
    expected = f"{turn}{text}{end}" if chat else f"{text}\nAnswer:"
    assert prompt.tokens == [lm.bos_id, *lm.tokenizer(expected, add_special_tokens=False)["input_ids"]]
    assert (scoring.kind == "letter, as a chat") == chat
    with pytest.raises(Problem, match="too many choices"):
        scoring.orders(Question("Where?", tuple("abcdefg"), 0))


def test_losses_are_those_of_the_model(lm: LanguageModel) -> None:
    rows = pack(list(SENTENCES) * 4, lm, 16, 6, seed=0)
    sums, counts = [], []
    for tokens, segments in zip(rows.tokens.tolist(), rows.segments, strict=True):
        each = log_probabilities(lm, tokens)[torch.from_numpy(segments[1:] >= 0)]
        sums.append(-each.sum().item())
        counts.append(len(each))
    mean, n = sum(sums) / sum(counts), len(sums)
    spread = sum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True))  # over rows
    error = (n / (n - 1) * spread) ** 0.5 / sum(counts)
    assert losses(Splice(lm, 1), rows, untouched, 4)[""] == pytest.approx((mean, error), rel=1e-4)


def test_the_error_of_a_loss_counts_rows_and_not_tokens(lm: LanguageModel) -> None:
    """Copies of a row, each with its loss, add no error; a single row knows none."""
    rows = pack(list(SENTENCES) * 4, lm, 16, 1, seed=0)
    assert np.isnan(losses(Splice(lm, 1), rows, untouched, 4)[""].error)
    same = Rows(rows.tokens.repeat(3, 0), rows.segments.repeat(3, 0))
    assert losses(Splice(lm, 1), same, untouched, 4)[""].error == pytest.approx(0, abs=1e-5)


def test_accuracies_have_binomial_errors_and_a_single_row_none() -> None:
    right = {"forget": np.arange(16) < 4, "one": np.arange(20) < 20, "two": np.arange(5) < 0}
    found = outcome(right, "forget", Estimate(2.0, 0.5), Estimate(3.0, float("nan"))).row()
    assert found["accuracy"] == {"forget": 0.25, "one": 1.0, "two": 0.0}
    assert found["accuracy_se"] == {"forget": pytest.approx((0.25 * 0.75 / 16) ** 0.5), "one": 0.0, "two": 0.0}
    assert (found["forget_accuracy"], found["forget_accuracy_se"]) == (0.25, found["accuracy_se"]["forget"])
    assert (found["retain_accuracy"], found["retain_accuracy_se"]) == (0.8, pytest.approx((0.8 * 0.2 / 25) ** 0.5))
    assert [found[f"{kind}_loss{part}"] for kind in ("forget", "retain") for part in ("", "_se")] == [
        2.0,
        0.5,
        3.0,
        None,
    ]


def test_rmu_misdirects_one_text_and_keeps_the_other(lm: LanguageModel) -> None:
    forget, retain = (pack([sentence] * 40, lm, 16, 12, seed=0) for sentence in (SENTENCES[0], SENTENCES[3]))
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    trained = rmu(lm, forget, retain, RMUConfig(layer=1, lr=3e-3, steps=60, alpha=10.0))
    names = {n for n, p in trained.model.named_parameters() if not torch.equal(p, before[n])}
    assert names == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    assert all(torch.equal(p, before[n]) for n, p in lm.model.named_parameters())

    def moved(rows: Rows) -> float:
        tokens = torch.from_numpy(rows.tokens).long()
        ours, theirs = (Splice(each, 1).resid(tokens)[:, 1:] for each in (lm, trained))
        return float((ours - theirs).norm() / ours.norm())

    assert moved(forget) > 3 * moved(retain)


def test_rmu_loses_no_step_to_a_bfloat16(lm: LanguageModel) -> None:
    """A step of 1e-5 is less than half the spacing of every weight above 0.004: only their sum changes it."""
    rounded = replace(lm, model=copy.deepcopy(lm.model).to(torch.bfloat16))
    rows = pack(list(SENTENCES) * 20, rounded, 16, 12, seed=0)
    trained = rmu(rounded, rows, rows, RMUConfig(layer=1, lr=1e-5, steps=60))
    before, after = (each.model.model.layers[1].mlp.down_proj.weight for each in (rounded, trained))
    large = before.abs() > 0.01
    assert large.sum() > 100
    assert ((before != after) & large).sum() > 0.25 * large.sum()


def test_rmu_without_parameters_to_train_names_those_there_are(lm: LanguageModel) -> None:
    rows = pack(list(SENTENCES) * 4, lm, 16, 6, seed=0)
    with pytest.raises(Problem, match="No parameter") as problem:
        rmu(lm, rows, rows, RMUConfig(layer=1, parameters="mlp.nothing"))
    assert "mlp.down_proj.weight" in str(problem.value)


def write_material(root: Path, answers: int = 2) -> list[str]:
    """Texts and questions as files, and the options that name them."""
    for name, sentences in {"forget": SENTENCES[:2], "retain": SENTENCES[2:]}.items():
        text = json.dumps({"text": " ".join(sentences)})
        (root / f"{name}.jsonl").write_text(f"{text}\n" * 20)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    for name, first in {"cells": 0, "history": 1, "cities": 2}.items():
        rows = [
            {"question": f"What is {word}?", "choices": [words[i - 1], words[i - 2]][:answers], "answer": i % 2}
            for i, word in enumerate(words)
            if i % 3 == first
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--forget", str(root / "forget.jsonl"), "--retain", str(root / "retain.jsonl")]
    return options + [
        part for name in ("cells", "history", "cities") for part in ("--questions", f"{root}/{name}.jsonl")
    ]


@pytest.fixture
def trained(project: TinyProject) -> TinyProject:
    project.params["profiles"]["tiny"]["unlearn"] = {
        "scoring": "completion",
        "retain_thresholds": [0.5, 1.0],
        "n_latents": [4, 8],
        "multipliers": [10.0, 100.0],
        "windows": [1, 4],
        "rows": 8,
        "loss_rows": 4,
        "batch_rows": 4,
    }
    project.save()
    for command in (["harvest"], ["train", "--variant", "topk"]):
        status, _, err = project(*command)
        assert status == 0, err
    return project


def result(project: TinyProject, run: str = "topk/seed0") -> dict[str, Any]:
    """What was kept of an unlearning on files."""
    (path,) = (project.root / "results/tiny" / run).glob("unlearning-*.json")
    return json.loads(path.read_text())


def test_the_command(trained: TinyProject, tmp_path: Path) -> None:
    options = ["unlearn", "runs/tiny/topk/seed0", "--rmu", *write_material(tmp_path)]
    status, out, err = trained(*options)
    assert status == 0, err
    assert "results/tiny/topk/seed0/unlearning-" in out and "RMU" in out and "forget accuracy" in out
    document = result(trained)
    jsonschema.validate(document, saebench_schema("unlearning"))
    found = document["eval_result_unstructured"]
    assert all(f"{row['forget_accuracy']:.4f} ± {row['forget_accuracy_se']:.4f}" in out for row in found["sweep"])
    assert f"{found['baseline']['retain_loss']:.4f} ± {found['baseline']['retain_loss_se']:.4f}" in out
    assert len(found["sweep"]) == 16
    assert found["baseline"]["forget_accuracy"] == found["baseline"]["retain_accuracy"] == 1.0
    assert len({row["forget_loss"] for row in found["sweep"]}) > 2
    counts = found["material"]["questions"]
    for row in (found["baseline"], *found["sweep"]):
        share, n = row["forget_accuracy"], counts["cells"]["known"]
        assert row["forget_accuracy_se"] == pytest.approx((share * (1 - share) / n) ** 0.5)
        assert 0 < row["forget_loss_se"] < row["forget_loss"] and 0 < row["retain_loss_se"] < row["retain_loss"]
    assert all(0 < each["known"] < each["questions"] for each in counts.values())
    assert set(found["scores_by_window"]) == {"1", "4"}
    assert set(result(trained, "rmu/layer1")["eval_result_unstructured"]["scores_by_window"]) == {"1"}
    status, out, err = trained(*options)
    assert "finished before" in out and "comparison.parquet, .csv and .json: 1 runs, 1 rows" in out
    assert "topk/seed0: unlearned, but not evaluated" in err


def test_settings_that_clamp_nothing_are_the_untouched_model(trained: TinyProject, tmp_path: Path) -> None:
    trained.params["profiles"]["tiny"]["unlearn"]["retain_thresholds"] = [1e-9]
    trained.save()
    retained = write_material(tmp_path)
    (tmp_path / "retain.jsonl").write_bytes((tmp_path / "forget.jsonl").read_bytes())
    status, out, err = trained("unlearn", "runs/tiny/topk/seed0", *retained)
    assert status == 0 and "topk/seed0: 8 of 8 settings clamp nothing" in err and "0 latents below 1e-09" in out
    found = result(trained)
    assert set(found["eval_result_unstructured"]["scores_by_window"].values()) == {0.0}
    for each in found["eval_result_unstructured"]["sweep"]:
        assert {key: each[key] for key in found["eval_result_unstructured"]["baseline"]} == (
            found["eval_result_unstructured"]["baseline"]
        )


def test_another_dtype_is_another_unlearning(trained: TinyProject, tmp_path: Path) -> None:
    options = ["unlearn", "runs/tiny/topk/seed0", *write_material(tmp_path)]
    for dtype, did in (("float32", "unlearned"), ("bfloat16", "unlearned"), ("bfloat16", "finished before")):
        trained.params["profiles"]["tiny"]["model"]["dtype"] = dtype
        trained.save()
        status, out, err = trained(*options)
        assert status == 0 and f".json: {did}" in out, err


def test_other_material_takes_no_results_place(trained: TinyProject, tmp_path: Path) -> None:
    options = ["unlearn", "runs/tiny/topk/seed0", *write_material(tmp_path)]
    texts = (tmp_path / "forget.jsonl").read_text()
    for text, did in ((texts, "unlearned"), (texts * 2, "unlearned"), (texts, "finished before")):
        (tmp_path / "forget.jsonl").write_text(text)
        status, out, err = trained(*options)
        assert status == 0 and f".json: {did}" in out, err
    assert len(list(trained.root.rglob("unlearning-*.json"))) == 2 and not list(trained.root.rglob("unlearning.json"))


def test_an_sae_that_does_not_know_the_positions_of_a_question_is_refused(trained: TinyProject, tmp_path: Path) -> None:
    rows = {**VARIANTS, "placed": {**VARIANTS["topk"], "parts": {"position": {"dim": 4, "std": 0.02}}}}
    (trained.root / "variants.yaml").write_text(yaml.safe_dump(rows))
    assert trained("train", "--variant", "placed")[0] == 0
    options = write_material(tmp_path)
    long = {"question": "What is " + "the cell of " * 9, "choices": ["Paris", "The"], "answer": 0}
    rows = [json.dumps({**long, "answer": answer}) for answer in (0, 1)]  # one of them is known
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write("\n".join(rows))
    status, _, err = trained("unlearn", "runs/tiny/placed/seed0", *options)
    assert status == 1 and "placed/seed0 knows fewer positions than the longest questions have" in err
    assert "16 positions at the most" in err and not list(trained.root.rglob("unlearning*.json"))


def test_nothing_is_judged_on_the_text_that_it_was_made_with(
    trained: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Rows]] = {"trained": [], "chosen": [], "judged": []}

    def choosing(sae: SAE, splice: Splice, rows: Rows, *rest: Any) -> np.ndarray:
        seen["chosen"].append(rows)
        return firing_shares(sae, splice, rows, *rest)

    def noting(lm: LanguageModel, forget: Rows, retain: Rows, *rest: Any) -> LanguageModel:
        seen["trained"] += [forget, retain]
        return rmu(lm, forget, retain, *rest)

    def judging(splice: Splice, rows: Rows, *rest: Any) -> dict[str, Estimate]:
        seen["judged"].append(rows)
        return losses(splice, rows, *rest)

    monkeypatch.setattr("stages.unlearn.run.firing_shares", choosing)
    monkeypatch.setattr("stages.unlearn.run.rmu", noting)
    monkeypatch.setattr("stages.unlearn.run.losses", judging)
    status, _, err = trained("unlearn", "runs/tiny/topk/seed0", "--rmu", *write_material(tmp_path))
    assert status == 0, err
    assert len(seen["judged"]) == 6 and [len(rows.tokens) for rows in seen["chosen"]] == [8, 8]
    for chosen, trained_on in zip(seen["chosen"], seen["trained"], strict=True):
        assert chosen is trained_on
        assert not any(np.shares_memory(chosen.tokens, other.tokens) for other in seen["judged"])


def test_a_topic_of_the_corpus_is_forgotten(
    trained: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the embedded profile has it by default: no file is named."""
    profile = trained.params["profiles"]["tiny"]
    profile["unlearn"] |= {"forget_topic": "Things", "questions_per_topic": 12}
    profile["corpus"]["source"] = install_articles(tmp_path / "site", monkeypatch)
    trained.save()
    status, _, err = trained("unlearn", "runs/tiny/topk/seed0")
    assert status == 0, err
    document = json.loads((trained.root / "results/tiny/topk/seed0/unlearning.json").read_text())
    material = document["eval_result_unstructured"]["material"]
    assert material["forget_set"] == "Things" and set(material["questions"]) == {"Things", "Persons", "Places"}
    assert all(count["questions"] == 12 for count in material["questions"].values())
    assert trained("evaluate", "runs/tiny/topk/seed0")[0] == 0
    table = pd.read_parquet(trained.root / "results/tiny/comparison.parquet").set_index("metric").value
    scores = document["eval_result_unstructured"]["scores_by_window"]
    assert [table["unlearning_score"], table["unlearning_score_window4"]] == [scores["1"], scores["4"]]
    assert trained("report")[0] == 0
    page = (trained.root / "report/tiny/index.html").read_text()
    assert "To be forgotten: Things" in page and page.count('<figure id="unlearning_') == 2


def test_no_score_where_nothing_is_known(trained: TinyProject, tmp_path: Path) -> None:
    options = write_material(tmp_path)
    row = {"question": "Which?", "choices": ["Paris", "The"], "answer": 0}
    rows = [row, {**row, "answer": 1}]
    (tmp_path / "cells.jsonl").write_text("")
    status, _, err = trained("unlearn", "runs/tiny/topk/seed0", *options)
    assert status == 1 and "empty" in err
    for rows_left in rows:  # the model answers one of the two rightly, whichever it is
        (tmp_path / "cells.jsonl").write_text(json.dumps(rows_left))
        status, out, err = trained("unlearn", "runs/tiny/topk/seed0", *options)
        if status:
            break
    assert status == 1 and "No score can be given" in err and "cells: 0 of 1" in err and "score" not in out


def test_one_text_alone_is_wrong_usage(trained: TinyProject, tmp_path: Path) -> None:
    write_material(tmp_path)
    status, _, err = trained("unlearn", "runs/tiny/topk/seed0", "--forget", str(tmp_path / "forget.jsonl"))
    assert status == 2 and "belong together" in err
