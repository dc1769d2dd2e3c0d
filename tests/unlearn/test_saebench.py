"""The whole sweep against SAEBench 0.6.0's own code: firings, chosen latents, every accuracy, the score."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.language_model.config import ModelConfig
from stages.language_model.model import load
from stages.language_model.splice import Splice
from stages.sae.model import SAE
from stages.sae.sparsifier import TopK
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.estimate import Estimate
from stages.unlearn.judge import accuracies, ask, ask_one, untouched
from stages.unlearn.latents import firing_shares
from stages.unlearn.questions import WMDP, Question, QuestionSet
from stages.unlearn.scoring import LetterScoring
from stages.unlearn.sweep import Clamps, outcome, settings_of, unlearning_score
from stages.unlearn.text import Rows
from tests.tiny import SENTENCES, tiny_tokenizer
from tests.unlearn.saebench import Judge, hooked, tiny_chat_model, tokenizer_for_chat

D, D_SAE, LAYER, SEQ = 32, 64, 1, 32
SWEEP = {"retain_thresholds": [0.2, 0.4], "n_features_list": [3, 6], "multipliers": [5, 20, 80]}


def questions(name: str, count: int, seed: int) -> QuestionSet:
    """Random words."""
    draw = random.Random(seed)
    words = " ".join(SENTENCES).split()

    def text(n: int) -> str:
        return " ".join(draw.choices(words, k=n))

    found = tuple(Question(text(6), tuple(f"{text(2)} {i}" for i in range(4)), draw.randrange(4)) for _ in range(count))
    return QuestionSet(name, "biology" if name == WMDP else name.replace("_", " "), found)


def texts(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(SENTENCES, k=draw.randint(2, 5))) for _ in range(40)]


def test_the_sweep_equals_saebench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    folder = tiny_chat_model(tmp_path / "model", tokenizer_for_chat(tiny_tokenizer()), D, layers=3)
    lm = load(ModelConfig("tiny/gemma-it", str(folder), dtype="float32"))
    splice, scoring = Splice(lm, LAYER), LetterScoring(lm)
    sets = [questions(WMDP, 24, 0), questions("human_aging", 20, 1), questions("high_school_geography", 20, 2)]
    judge = Judge(hooked(lm.model, lm.tokenizer), tmp_path / "judge", monkeypatch, sets, texts(0), texts(1))

    for each in sets:
        asked = [
            ask_one(scoring, each, place, order)
            for place, question in enumerate(each.questions)
            for order in scoring.orders(question)
        ]
        right = accuracies(splice, scoring, asked, untouched, 8)[""]
        assert np.array_equal(right.reshape(-1, 24), judge.is_correct(each.name))
        assert 0 < right.mean() < 1

    # A random model knows nothing in all 24 orders: those that it answers rightly in the first stand for the known.
    known = {}
    for each in sets:
        asked = ask(scoring, each, range(len(each.questions)))
        known[each.name] = np.flatnonzero(accuracies(splice, scoring, asked, untouched, 8)[""]).tolist()
        judge.call_known(each.name, known[each.name])
    random.seed(42)
    torch.manual_seed(42)
    special = torch.tensor([lm.bos_id, lm.pad_id, lm.eos_id])
    rows = [Rows(t.numpy(), torch.where(torch.isin(t, special), -1, 0).numpy()) for t in judge.tokens(20, SEQ)]
    sae = SAE(D, D_SAE, TopK(8)).eval()
    sae.initialise(0)
    shares = [firing_shares(sae, splice, each, 4) for each in rows]
    config = UnlearnConfig(
        retain_thresholds=(0.2, 0.4), n_latents=(3, 6), multipliers=(5.0, 20.0, 80.0), rows=20, batch_rows=4
    )
    settings = settings_of(config, *shares)
    assert {len(setting.latents) for setting in settings} == {3, 6}
    right = {
        each.name: accuracies(splice, scoring, ask(scoring, each, known[each.name]), Clamps(sae, settings), 4)
        for each in sets
    }
    loss = Estimate(0.0, 0.0)
    outcomes = {s.name: outcome({n: of[s.name] for n, of in right.items()}, WMDP, loss, loss) for s in settings}

    random.seed(42)
    torch.manual_seed(42)
    names = [each.name for each in sets]
    data = {"dataset_names": names, "dataset_size": 20, "seq_len": SEQ}
    table, score = judge.sweep(sae, LAYER, {**SWEEP, **data})
    assert len(table) == len(settings)
    for row in table.to_dict("records"):
        key = f"{row['retain_thres']}/{row['n_features']:g}/{float(row['multiplier'])}/1"
        found = outcomes[key].row()
        assert found["retain_accuracy"] == pytest.approx(row["all_side_effects_mcq"])
        assert found["accuracy"] == pytest.approx({name: row[name] for name in names})
    assert unlearning_score(list(outcomes.values())) == pytest.approx(score)
    assert len({each.forget_accuracy.value for each in outcomes.values()}) > 2
