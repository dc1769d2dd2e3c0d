"""Temporal metrics of SAEs: nulls, references, and what is shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.evaluate.temporal.run import Temporal, temporal
from stages.evaluate.temporal.signals import Batch
from stages.evaluate.untrained import untrained
from stages.sae.architecture import NO_PARTS, IntegratorRow, PartsRow, SparsifierRow, ThresholdRow
from stages.sae.build import Blueprint
from stages.sae.codes import DenseCodes
from stages.sae.files import fold, for_raw
from stages.sae.model import SAE, Encoding
from stages.sae.normalisation import Normalisation
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from store.pairs import permutation_within_documents
from tests.evaluate.stand_ins import MemoryStore

D, D_SAE, ROWS, CONTEXT = 16, 40, 80, 48
BATCHES = list(np.arange(ROWS).reshape(-1, 8))
CPU = torch.device("cpu")
ORDERED = PartsRow(integrator=IntegratorRow(0.999))
"""Of SAEs whose codes depend on other tokens."""


def sticky_store(seed: int = 0) -> MemoryStore:
    """Two documents a row, each a slow process around its own mean, far from 0; BOS is huge."""
    rng = np.random.default_rng(seed)
    document = np.full((ROWS, CONTEXT), -1, dtype=np.int32)
    document[:, 1:34], document[:, 35:-2] = 2 * np.arange(ROWS)[:, None], 2 * np.arange(ROWS)[:, None] + 1
    x = rng.standard_normal((ROWS, CONTEXT, D))
    for t in range(1, CONTEXT):
        x[:, t] = 0.8 * x[:, t - 1] + 0.6 * x[:, t]
    x += 0.5 * rng.standard_normal((2 * ROWS, D))[document] + 20
    x[document < 0] = 1e5
    return MemoryStore(torch.as_tensor(x, dtype=torch.float32), np.zeros_like(document), document)


@pytest.fixture
def store() -> MemoryStore:
    torch.set_num_threads(1)
    return sticky_store()


def sae_of(store: MemoryStore, sparsifier: Sparsifier, seed: int, d_sae: int = D_SAE) -> SAE:
    """A folded SAE of random weights: another seed than the untrained reference's makes another SAE."""
    statistics = store.statistics(1)
    normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
    directions = SAE(D, d_sae, sparsifier)
    directions.initialise(seed)
    fresh = fold(directions, normalisation)
    with torch.no_grad():
        fresh.W_enc.copy_(directions.W_enc)
        fresh.W_dec.copy_(directions.W_dec)
    return fresh


def firings_of(sae: SAE, store: MemoryStore) -> Tensor:
    codes = sae.encode(store.activations, segments=torch.as_tensor(store.document_))
    return (codes[torch.as_tensor(store.document_ >= 0)] > 0).sum(0).double()


def blueprint_of(sae: SAE) -> Blueprint:
    row = SparsifierRow("topk" if isinstance(sae.sparsifier, TopK) else "relu")
    return Blueprint(row, NO_PARTS, "tied", D, sae.d_sae, 4, CONTEXT)


def blueprints(saes: dict[str, SAE]) -> dict[str, Blueprint]:
    return {name: blueprint_of(sae) for name, sae in saes.items()}


def run(saes: dict[str, SAE], store: MemoryStore) -> dict[str, Temporal]:
    firings = {name: firings_of(sae, store) for name, sae in saes.items()}
    return temporal(saes, blueprints(saes), firings, store, 1, BATCHES)


def test_windows_permuted_within_documents_score_as_their_null(store: MemoryStore) -> None:
    sae = sae_of(store, TopK(4), 3)
    original = run({"sae": sae}, store)["sae"].measures
    order = permutation_within_documents(store.document_, np.random.default_rng(99))
    moved = store.activations.gather(1, torch.as_tensor(order)[..., None].expand(-1, -1, D))
    permuted = run({"sae": sae}, replace(store, activations=moved))["sae"].measures["codes"]
    null, codes = original["codes_inputs_permuted"], original["codes"]
    for scale in ("short", "medium", "long"):
        error = np.hypot(permuted.errors[f"tcs_{scale}"], null.errors[f"tcs_{scale}"])
        assert abs(permuted.tcs[scale] - null.tcs[scale]) < 4 * error, scale
    assert codes.tcs["short"] - null.tcs["short"] > 10 * codes.errors["tcs_short"]
    assert permuted.fsm_support == pytest.approx(null.fsm_support, rel=0.05)
    assert codes.fsm_support > 1.3 * null.fsm_support
    assert permuted.persistence["1"] == pytest.approx(null.persistence["1"], abs=0.02)
    assert permuted.smoothness == pytest.approx(null.smoothness, rel=0.05)


def test_for_a_per_token_sae_both_nulls_are_one(store: MemoryStore) -> None:
    shared, measured = sae_of(store, ReLU(), 3), sae_of(store, ReLU(), 3)
    measured.row = ORDERED  # says that order matters, where it does not: nothing is taken for the same
    one, two = (run({"sae": sae}, store)["sae"].measures for sae in (shared, measured))
    assert one["codes_permuted"] is one["codes_inputs_permuted"]
    assert one["codes_permuted"].tcs != one["codes"].tcs
    for name in ("codes_inputs_permuted", "codes_permuted"):
        assert one[name].tcs == pytest.approx(two[name].tcs, abs=1e-6)
        for number in ("fsm_support", "fsm_magnitude", "smoothness", "slowness"):
            assert getattr(one[name], number) == pytest.approx(getattr(two[name], number), rel=1e-5), number


class Remembers(SAE):
    """Adds half of the previous token of the same document: order-dependent, and lost without segments."""

    def encoding(self, x: Tensor, segments: Tensor | None = None, start: int = 0) -> Encoding:
        assert segments is not None
        same = (segments[:, 1:] == segments[:, :-1])[..., None]
        moved = x.clone()
        moved[:, 1:] += torch.where(same, 0.5 * (x[:, :-1] - self.b_dec), 0)
        return super().encoding(moved)


def test_a_temporal_sae_is_encoded_within_documents_and_its_nulls_differ(store: MemoryStore) -> None:
    plain = sae_of(store, ReLU(), 3)
    sae = Remembers(D, D_SAE, ReLU())
    sae.row = ORDERED
    sae.load_state_dict(plain.state_dict())
    measures = run({"sae": sae}, store)["sae"].measures
    assert measures["codes_inputs_permuted"].tcs["short"] > measures["codes_permuted"].tcs["short"] + 0.05
    store.activations[torch.as_tensor(store.document_ < 0)] = -1e5
    again = run({"sae": sae}, store)["sae"].measures["codes"]
    assert again.tcs == measures["codes"].tcs


def test_together_equals_alone_and_activations_are_read_once(store: MemoryStore) -> None:
    saes = {"a": sae_of(store, TopK(4), 1), "b": sae_of(store, TopK(4), 2), "c": sae_of(store, ReLU(), 1, 24)}
    together = run(saes, store)
    assert len(store.reads) == 1 + 2 * len(BATCHES)  # to calibrate; the firings of untrained SAEs, and everything
    for name, sae in saes.items():
        alone = run({name: sae}, store)[name]
        assert together[name].document("x") == alone.document("x")
    assert together["a"].measures["untrained"] is together["b"].measures["untrained"]
    assert together["a"].measures["untrained"] != together["c"].measures["untrained"]
    assert together["a"].measures["codes"] != together["b"].measures["codes"]
    assert together["a"].measures["activations"] is together["c"].measures["activations"]


def test_gain_is_what_order_adds_to_a_trained_sae_beyond_an_untrained_one(store: MemoryStore) -> None:
    found = run({"sae": sae_of(store, TopK(4), 1)}, store)["sae"]
    summary, measures = found.summary(), found.measures
    assert summary["lifetime_ratio"] == measures["codes"].patterns.lifetime.ratio
    untrained_null = measures["untrained_inputs_permuted"].patterns.lifetime.ratio
    gain = summary["lifetime_ratio"] - summary["lifetime_ratio_inputs_permuted"]
    gain -= summary["lifetime_ratio_untrained"] - untrained_null
    assert summary["lifetime_ratio_gain"] == pytest.approx(gain)
    assert summary["lifetime_ratio"] > summary["lifetime_ratio_codes_permuted"] + 0.1
    assert summary["turnover"] < summary["turnover_inputs_permuted"] - 0.05
    assert summary["turnover_document_boundary"] > summary["turnover"]
    assert summary["turnover_se"] < 0.05
    assert summary["lift_edges"] > 10 + 3 * summary["lift_edges_codes_permuted"]
    assert summary["effective_rank"] > 1 and "effective_rank_codes_permuted" not in summary


def test_pairs_of_latents_have_the_numbers_of_the_sae(store: MemoryStore) -> None:
    """Latent 7 is active where latent 3 was a token before, and most are not counted."""
    sae = Follows(D, D_SAE, ReLU())
    sae.load_state_dict(sae_of(store, ReLU(), 3).state_dict())
    firings = torch.zeros(D_SAE)
    firings[[3, 7, 20]] = 100
    found = temporal({"sae": sae}, blueprints({"sae": sae}), {"sae": firings}, store, 1, BATCHES)["sae"].measures
    lift = found["codes"].patterns.lift
    assert lift.latents == 3 and (lift.top[0].first, lift.top[0].second) == (3, 7)
    assert lift.edges > 0 == found["codes_permuted"].patterns.lift.edges


class Follows(SAE):
    """Latent 7 repeats latent 3 a token later."""

    def encoding(self, x: Tensor, segments: Tensor | None = None, start: int = 0) -> Encoding:
        found = super().encoding(x)
        codes = found.codes.dense()
        codes[:, 1:, 7] = codes[:, :-1, 3]
        return found._replace(codes=DenseCodes(codes))


def test_sentences_are_those_of_the_stored_tokens(store: MemoryStore) -> None:
    sae = {"sae": sae_of(store, TopK(4), 1)}
    tokens = np.random.default_rng(0).integers(10, size=store.tokens_.shape)

    def ends(tokens: np.ndarray) -> np.ndarray:
        return tokens == 3

    arguments = (blueprints(sae), {"sae": firings_of(sae["sae"], store)}, replace(store, tokens_=tokens), 1, BATCHES)
    found = temporal(sae, *arguments, sentence_ends=ends)["sae"].summary()
    assert found["turnover_sentence_boundary"] == pytest.approx(found["turnover"], abs=0.1)
    assert np.isnan(temporal(sae, *arguments)["sae"].summary()["turnover_sentence_boundary"])


def test_special_positions_reach_nothing(store: MemoryStore) -> None:
    sae = {"sae": sae_of(store, TopK(4), 1)}
    before = run(sae, store)["sae"].document("")
    store.activations[torch.as_tensor(store.document_ < 0)] = torch.nan
    assert run(sae, store)["sae"].document("") == before


def part_of(sae: SAE, latents: list[int]) -> SAE:
    """A ReLU SAE of some of the latents of one."""
    few = SAE(D, len(latents), ReLU())
    weights = {"W_enc": sae.W_enc[:, latents], "b_enc": sae.b_enc[latents], "W_dec": sae.W_dec[latents]}
    few.load_state_dict({**weights, "b_dec": sae.b_dec})
    return few


def test_smoothness_of_a_level_is_that_of_its_latents_alone(store: MemoryStore) -> None:
    sae = sae_of(store, ReLU(), 1)
    firings = firings_of(sae, store)
    firings[[2, 20]] = 9  # too few, so neither counts
    levels = {"sae": [10, D_SAE]}
    found = temporal({"sae": sae}, blueprints({"sae": sae}), {"sae": firings}, store, 1, BATCHES, levels=levels)["sae"]
    spans = {0: range(10), 1: range(10, D_SAE)}
    parts = {str(i): part_of(sae, [j for j in span if firings[j] >= 10]) for i, span in spans.items()}
    for i, alone in run(parts, store).items():
        for suffix in ("", "_inputs_permuted", "_codes_permuted"):
            name = f"smoothness{suffix}"
            assert found.summary()[f"level{i}_{name}"] == pytest.approx(alone.summary()[name], rel=1e-5)
    assert found.summary()["level0_smoothness"] != pytest.approx(found.summary()["smoothness"], rel=1e-3)
    assert "level0_smoothness_untrained" not in found.summary()


def test_only_latents_with_ten_firings_count(store: MemoryStore) -> None:
    sae = sae_of(store, ReLU(), 1)
    firings = torch.full((D_SAE,), 9.0)
    firings[[3, 5]] = 10
    found = temporal({"sae": sae}, blueprints({"sae": sae}), {"sae": firings}, store, 1, BATCHES)["sae"].measures
    expected = run({"few": part_of(sae, [3, 5])}, store)["few"].measures
    for name in ("codes", "codes_inputs_permuted", "codes_permuted"):
        assert found[name].latents == 2
        assert found[name].tcs == pytest.approx(expected[name].tcs, abs=1e-5)
        assert found[name].fsm_support == pytest.approx(expected[name].fsm_support)
        assert found[name].smoothness == pytest.approx(expected[name].smoothness, rel=1e-5)
    assert found["untrained"].latents == D_SAE
    assert found["activations"].latents == D


def test_where_codes_are_dense_by_construction_what_fires_are_the_events(store: MemoryStore) -> None:
    """The events of a leaky integrator are what it integrates: the codes of the same SAE without it."""
    statistics = store.statistics(1)
    normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
    plain = SAE(D, D_SAE, TopK(4))
    plain.initialise(1)
    leaky = SAE(D, D_SAE, TopK(4), PartsRow(integrator=IntegratorRow(0.9)), CONTEXT)
    leaky.initialise(1)
    saes = {name: for_raw(sae, normalisation) for name, sae in {"plain": plain, "leaky": leaky}.items()}
    firings = dict.fromkeys(saes, firings_of(saes["plain"], store))
    found = temporal(saes, dict.fromkeys(saes, blueprint_of(plain)), firings, store, 1, BATCHES)
    expected, dense = (found[name].measures["codes"] for name in ("plain", "leaky"))
    assert dense.fsm_support == pytest.approx(expected.fsm_support)
    assert dense.tcs_binary == pytest.approx(expected.tcs_binary)
    assert dense.persistence == pytest.approx(expected.persistence, nan_ok=True)
    assert dense.patterns.lifetime.tokens == pytest.approx(expected.patterns.lifetime.tokens)
    assert dense.patterns.transitions.turnover == pytest.approx(expected.patterns.transitions.turnover)
    assert dense.tcs["short"] > expected.tcs["short"] + 0.1


def test_the_permutation_follows_from_the_rows_alone(store: MemoryStore) -> None:
    rows, other = BATCHES[0], BATCHES[1]
    first, second = (Batch.read(store, 1, rows, CPU) for _ in range(2))
    assert torch.equal(first.order, second.order)
    assert not torch.equal(first.order, Batch.read(store, 1, other, CPU).order)
    assert torch.equal(first.order.sort().values, torch.arange(len(first.order)))
    document = first.document.flatten()[first.segments.positions]
    assert torch.equal(document[first.order], document)
    kept = first.segments.kept(first.x)
    assert torch.equal(first.segments.kept(first.permuted), kept[first.order])
    assert (first.order != torch.arange(len(first.order))).float().mean() > 0.9


def test_an_untrained_sae_is_the_initialised_one_in_raw_units(store: MemoryStore) -> None:
    statistics = store.statistics(1)
    normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
    document = torch.as_tensor(store.document_)
    blueprint = blueprint_of(SAE(D, D_SAE, TopK(4)))
    fresh = untrained(blueprint, normalisation, store.activations, document)
    normalised = SAE(D, D_SAE, TopK(4))
    normalised.initialise(0)
    inputs = normalisation.apply(store.activations, document >= 0)
    expected = normalised.encode(inputs) * normalisation.scale
    keep = document >= 0
    torch.testing.assert_close(fresh.encode(store.activations)[keep], expected[keep], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["batchtopk", "jumprelu"])
def test_untrained_thresholds_are_those_of_the_first_batch(kind: str, store: MemoryStore) -> None:
    statistics = store.statistics(1)
    normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
    document = torch.as_tensor(store.document_)
    threshold = ThresholdRow(1.0, 1.0) if kind == "jumprelu" else None
    blueprint = replace(blueprint_of(SAE(D, D_SAE, TopK(4))), sparsifier=SparsifierRow(kind, threshold))  # type: ignore[arg-type]
    fresh = untrained(blueprint, normalisation, store.activations, document)
    active = (fresh.encode(store.activations) > 0)[document >= 0].sum(-1).float().mean()
    expected = {"batchtopk": 4, "jumprelu": 0.16 * D_SAE}[kind]  # a normal variable exceeds its spread in 16 %
    assert active.item() == pytest.approx(expected, rel=0.25)
