"""Spliced cross-entropy and KL against whole forward passes of the unmodified model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.evaluate.bootstrap import drawn
from stages.evaluate.core import splicing
from stages.evaluate.core.splicing import CLEAN, reconstruction
from stages.evaluate.standard_error import standard_error
from stages.language_model.config import ModelConfig
from stages.language_model.decoder import decoder_layers
from stages.language_model.model import LanguageModel, load
from stages.language_model.splice import Splice
from tests.evaluate.core import literal
from tests.evaluate.stand_ins import MemoryStore, dead_sae, identity_sae, random_rows, random_sae
from tests.tiny import KINDS, tiny_model_folder

D, LAYER, ROWS, CONTEXT = 32, 1, 6, 20
BATCHES = [np.arange(0, 3), np.arange(3, 6)]


@pytest.fixture(scope="module", params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), request.param, layers=3, d=D)
    return load(ModelConfig(request.param, str(folder), dtype="float32"))


@pytest.fixture
def store(lm: LanguageModel) -> MemoryStore:
    tokens, document = random_rows(ROWS, CONTEXT, 300)
    return MemoryStore(torch.empty(0, 0, D), tokens, document, LAYER)


def test_equals_whole_forward_passes(lm: LanguageModel, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "LOGIT_BYTES", 4 * 320 * 7)  # blocks of 7 positions: several, the last one shorter
    saes = {"a": random_sae(D, 48, 0), "b": random_sae(D, 16, 1), "dead": dead_sae(D, 8)}
    found = reconstruction(saes, Splice(lm, LAYER), store, BATCHES)
    block = decoder_layers(lm.model)[LAYER]
    batches = [torch.as_tensor(store.tokens(rows)).long() for rows in BATCHES]
    for name, sae in saes.items():
        expected = literal.reconstruction(lm.model, block, sae, batches, {0, 1, 2})
        assert found[name].scalars.keys() == expected.keys()
        for key, value in expected.items():
            assert found[name].scalars[key] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, key)
        assert found[name].tokens == int((store.document_ >= 0).sum())
        assert all(standard_error(values) >= 0 for values in found[name].replicates.values())


def test_replicates_are_those_of_repeated_documents(lm: LanguageModel, store: MemoryStore) -> None:
    """Rows, here a document each, as often as a replicate draws them."""
    document = np.where(store.document_ >= 0, np.arange(ROWS)[:, None], -1)
    rows = replace(store, document_=document)
    saes, splice = {"sae": random_sae(D, 48, 0)}, Splice(lm, LAYER)
    found = reconstruction(saes, splice, rows, BATCHES)["sae"].replicates
    for replicate in (0, 3, 11):
        again = np.repeat(np.arange(ROWS), drawn(np.arange(ROWS))[replicate])
        expected = reconstruction(saes, splice, rows, [again])["sae"].scalars
        assert {name: values[replicate] for name, values in found.items()} == pytest.approx(
            expected, rel=1e-5, abs=1e-6
        )


def test_each_pass_runs_once_however_many_saes(
    lm: LanguageModel, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = Splice(lm, LAYER)
    calls = {"resid": 0, "tail": 0}
    for name in calls:
        original = getattr(splice, name)

        def counted(*args, name=name, original=original):
            calls[name] += 1
            return original(*args)

        monkeypatch.setattr(splice, name, counted)
    saes = {str(i): random_sae(D, 16, i) for i in range(3)}
    reconstruction(saes, splice, store, BATCHES)
    assert calls == {"resid": len(BATCHES), "tail": len(BATCHES) * (2 + len(saes))}


def test_an_identity_sae_changes_nothing(lm: LanguageModel, store: MemoryStore) -> None:
    found = reconstruction({"sae": identity_sae(D)}, Splice(lm, LAYER), store, BATCHES)["sae"]
    assert found.scalars["kl_div_with_sae"] == pytest.approx(0, abs=1e-6)
    assert found.scalars["ce_loss_with_sae"] == pytest.approx(found.scalars["ce_loss_without_sae"], rel=1e-6)
    for score in ("ce_loss_score", "kl_div_score"):
        assert found.scalars[score] == pytest.approx(1, abs=1e-4)
        assert standard_error(found.replicates[score]) == pytest.approx(0, abs=1e-4)


def test_a_dead_sae_is_not_the_ablation_because_it_leaves_special_positions(
    lm: LanguageModel, store: MemoryStore
) -> None:
    splice, sae = Splice(lm, LAYER), {"sae": dead_sae(D, 8)}
    found = reconstruction(sae, splice, store, BATCHES)["sae"].scalars
    assert found["kl_div_with_sae"] != pytest.approx(found["kl_div_with_ablation"], rel=1e-3)
    everything = MemoryStore(store.activations, store.tokens_, np.zeros_like(store.document_), LAYER)
    found = reconstruction(sae, splice, everything, BATCHES)["sae"].scalars
    assert found["kl_div_with_sae"] == pytest.approx(found["kl_div_with_ablation"], rel=1e-5)
    assert found["ce_loss_score"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("lm", ["gemma2", "gemma3", "llama"], indirect=True)
def test_zero_ablation_of_a_bias_free_model_guesses_uniformly(lm: LanguageModel, store: MemoryStore) -> None:
    found = reconstruction({"sae": dead_sae(D, 8)}, Splice(lm, LAYER), store, BATCHES)["sae"]
    vocabulary = lm.model.config.get_text_config().vocab_size
    assert found.scalars["ce_loss_with_ablation"] == pytest.approx(math.log(vocabulary), rel=1e-5)
    assert standard_error(found.replicates["ce_loss_with_ablation"]) == pytest.approx(0, abs=1e-5)


def test_kl_stays_finite_where_probabilities_underflow() -> None:
    class Certain:
        """A model that is sure, and sure of something else with an SAE."""

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return 500 * hidden

    states = {
        CLEAN: torch.tensor([[1.0, 0.0]]),
        splicing.ABLATION: torch.zeros(1, 2),
        "sae": torch.tensor([[0.0, 1.0]]),
    }
    losses = splicing.Comparison(Certain())(states, torch.tensor([0]))
    assert float(losses["sae"][1]) == pytest.approx(500)
    assert float(losses["sae"][0]) == pytest.approx(500)
