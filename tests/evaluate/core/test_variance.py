"""Sparsity and variance metrics against the literal definitions and SAEs with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.evaluate.bootstrap import drawn
from stages.evaluate.core.features import latent_metrics, misc_metrics
from stages.evaluate.core.variance import sparsity_variance
from tests.evaluate.core import literal
from tests.evaluate.stand_ins import (
    MemoryStore,
    constant_sae,
    dead_sae,
    identity_sae,
    random_rows,
    random_sae,
)

D, D_SAE, ROWS, CONTEXT = 24, 40, 12, 20


@pytest.fixture
def store() -> MemoryStore:
    """Activations whose mean outweighs their spread, with a huge BOS, as in Gemma."""
    torch.set_num_threads(1)
    tokens, document = random_rows(ROWS, CONTEXT, 300)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, CONTEXT, D, generator=generator) + 3 * torch.randn(D, generator=generator)
    x[torch.as_tensor(tokens == 2)] *= 50
    return MemoryStore(x, tokens, document)


def batches(size: int = 4) -> list[np.ndarray]:
    return list(np.arange(ROWS).reshape(-1, size))


def kept(store: MemoryStore) -> torch.Tensor:
    return store.activations[torch.as_tensor(store.document_ >= 0)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [1, 4, 12])
def test_equals_the_literal_definitions(store: MemoryStore, seed: int, size: int) -> None:
    sae = random_sae(D, D_SAE, seed, scale=3.0)
    found = sparsity_variance({"sae": sae}, store, 1, batches(size))["sae"]
    pairs = [(store.activations[rows], torch.as_tensor(store.document_[rows] >= 0)) for rows in batches(size)]
    expected, latents = literal.variance(sae, pairs)
    assert found.scalars.keys() == expected.keys()
    for name, value in expected.items():
        assert found.scalars[name] == pytest.approx(value, rel=1e-5), name
    for name, values in latents.items():
        torch.testing.assert_close(latent_metrics(sae, found)[name], values, rtol=1e-6, atol=0, equal_nan=True)
    assert found.tokens == int((store.document_ >= 0).sum())


def test_replicates_are_those_of_repeated_documents(store: MemoryStore) -> None:
    """Documents, of which rows hold several, alone in a row and as often as a replicate draws them."""
    sae = random_sae(D, D_SAE, 0, scale=3.0)
    found = sparsity_variance({"sae": sae}, store, 1, batches())["sae"].replicates
    names = np.unique(store.document_[store.document_ >= 0])
    for replicate in (0, 5, 42):
        times = drawn(names)[replicate]
        activations, document = [], []
        for name in np.repeat(names, times):
            for row in np.flatnonzero((store.document_ == name).any(axis=1)):
                activations.append(store.activations[row])
                document.append(np.where(store.document_[row] == name, len(document), -1))
        again = MemoryStore(torch.stack(activations), None, np.stack(document))
        expected = sparsity_variance({"sae": sae}, again, 1, [np.arange(len(document))])["sae"].scalars
        assert found["explained_variance_centred"][replicate] == pytest.approx(
            expected["explained_variance_centred"], rel=1e-5
        )
        assert found["l0"][replicate] == pytest.approx(expected["l0_events"], rel=1e-9)


def test_several_saes_share_one_reading_and_do_not_touch_each_other(store: MemoryStore) -> None:
    saes = {"a": random_sae(D, D_SAE, 0, 3.0), "b": random_sae(D, 16, 1, 3.0), "dead": dead_sae(D, D_SAE)}
    together = sparsity_variance(saes, store, 1, batches())
    assert len(store.reads) == len(batches())
    for name, sae in saes.items():
        alone = sparsity_variance({name: sae}, store, 1, batches())[name]
        assert together[name].scalars == pytest.approx(alone.scalars, nan_ok=True)


def test_a_dead_sae(store: MemoryStore) -> None:
    found = sparsity_variance({"sae": dead_sae(D, D_SAE)}, store, 1, batches())["sae"]
    for name in ("l0", "l1", "l2_norm_out", "l2_ratio"):
        assert found.scalars[name] == 0
    assert math.isnan(found.scalars["cossim"])
    assert math.isnan(found.scalars["relative_reconstruction_bias"])
    assert found.scalars["explained_variance_legacy"] < 0
    assert found.scalars["explained_variance_centred"] < 0
    tokens = [int((store.document_[rows] >= 0).sum()) for rows in batches()]
    squares = [kept(MemoryStore(store.activations[r], None, store.document_[r])).square().sum() for r in batches()]
    mse = sum(float(s) / n for s, n in zip(squares, tokens, strict=True)) / sum(tokens)
    assert found.scalars["mse"] == pytest.approx(mse, rel=1e-5)
    assert found.dead_latents == D_SAE
    assert misc_metrics(latent_metrics(dead_sae(D, D_SAE), found))["frac_alive"] == 0


def test_an_identity_sae(store: MemoryStore) -> None:
    found = sparsity_variance({"sae": identity_sae(D)}, store, 1, batches())["sae"].scalars
    for name in (
        "explained_variance",
        "explained_variance_legacy",
        "explained_variance_centred",
        "cossim",
        "l2_ratio",
        "relative_reconstruction_bias",
    ):
        assert found[name] == pytest.approx(1, abs=1e-6), name
    assert found["mse"] == 0


def test_predicting_the_mean_explains_nothing_but_saebench_says_it_does(store: MemoryStore) -> None:
    sae = constant_sae(D, D_SAE, kept(store).mean(0))
    found = sparsity_variance({"sae": sae}, store, 1, batches())["sae"].scalars
    assert found["explained_variance_centred"] == pytest.approx(0, abs=1e-5)
    assert found["explained_variance"] > 0.5


def test_constant_inputs_leave_no_variance_to_explain_at_any_level(store: MemoryStore) -> None:
    constant = MemoryStore(torch.ones_like(store.activations), None, store.document_)
    sae = constant_sae(D, D_SAE, torch.ones(D))
    found = sparsity_variance({"sae": sae}, constant, 1, batches(), levels={"sae": [8, D_SAE]})["sae"]
    values = [found.scalars, *found.levels]
    assert len(values) == 3 and all(math.isnan(each["explained_variance_centred"]) for each in values)


def test_what_stands_at_special_positions_does_not_matter(store: MemoryStore) -> None:
    sae = random_sae(D, D_SAE, 0, 3.0)
    before = sparsity_variance({"sae": sae}, store, 1, batches())["sae"].scalars
    store.activations[torch.as_tensor(store.document_ < 0)] = 1e9
    assert sparsity_variance({"sae": sae}, store, 1, batches())["sae"].scalars == before


def test_latent_metrics_against_loops(store: MemoryStore) -> None:
    sae = random_sae(D, 7, 0, 3.0)
    found = latent_metrics(sae, sparsity_variance({"sae": sae}, store, 1, batches())["sae"])
    cosine = torch.nn.functional.cosine_similarity
    for i in range(7):
        others = [j for j in range(7) if j != i]
        enc, dec = sae.W_enc[:, i], sae.W_dec[i]
        expected = {
            "encoder_bias": sae.b_enc[i],
            "encoder_norm": enc.norm(),
            "encoder_decoder_cosine_sim": cosine(enc, dec, dim=0),
            "max_encoder_cosine_sim": max(cosine(enc, sae.W_enc[:, j], dim=0) for j in others),
            "max_decoder_cosine_sim": max(cosine(dec, sae.W_dec[j], dim=0) for j in others),
        }
        for name, value in expected.items():
            assert float(found[name][i]) == pytest.approx(float(value), rel=1e-5), name
