"""Loss terms against literal transcriptions of their formulas in float64, and what they do to dead latents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.sae import SAE, load_variants
from stages.sae.architecture import ThresholdRow
from stages.sae.build import make_sparsifier
from stages.sae.objective_row import BoostRow
from stages.sae.threshold import JumpReLU
from stages.train.objective import Batch, Objective
from tests.train import small

SHAPE, D_IN, D_SAE, K = (3, 5), 8, 24, 3


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    segments = torch.zeros(SHAPE, dtype=torch.int32)
    segments[:, 0] = -1
    segments[0, 3:] = -1
    keep = segments >= 0
    x = torch.randn(*SHAPE, D_IN, generator=generator) * keep.unsqueeze(-1)
    return Batch(x, segments, keep, int(keep.sum()))


def make_sae(kind: str) -> SAE:
    row = small.variant("topk" if kind == "topk" else "baseline").sparsifier
    sae = SAE(D_IN, D_SAE, make_sparsifier(row, K, D_SAE))
    sae.initialise(1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return sae


def literal_codes(sae: SAE, x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Pre-activations and codes of one token, coordinate by coordinate."""
    pre = torch.stack([(x - sae.b_dec) @ sae.W_enc[:, i] + sae.b_enc[i] for i in range(D_SAE)])
    chosen = sorted(range(D_SAE), key=lambda i: -pre[i].item())[: K if kind == "topk" else D_SAE]
    codes = [pre[i].clamp(min=0) if i in chosen else torch.zeros_like(pre[i]) for i in range(D_SAE)]
    return pre, torch.stack(codes)


def literal_loss(sae: SAE, batch: Batch, kind: str, l1: float, aux: float, dead: Tensor) -> dict[str, Tensor]:
    """The terms token by token, as the papers write them."""
    reconstruction, sparsity, auxiliary = [], [], []
    for row in range(SHAPE[0]):
        for position in range(SHAPE[1]):
            if batch.segments[row, position] < 0:
                continue
            x = batch.x[row, position].double()
            pre, codes = literal_codes(sae, x, kind)
            error = x - (sum(codes[i] * sae.W_dec[i] for i in range(D_SAE)) + sae.b_dec)
            reconstruction.append((error**2).sum())
            sparsity.append(codes.abs().sum())
            latents = sorted(dead.nonzero().flatten().tolist(), key=lambda i: -pre[i].item())[: D_IN // 2]
            modelled = sum(pre[i] * sae.W_dec[i] for i in latents)
            auxiliary.append(((error.detach() - modelled) ** 2).sum())
    mean = {"reconstruction": reconstruction, "l1": sparsity, "aux": auxiliary}
    weights = {"reconstruction": 1.0, "l1": l1, "aux": aux}
    return {name: weights[name] * sum(values) / len(values) for name, values in mean.items() if weights[name]}


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("n_dead", [2, 9])
def test_terms_and_gradients_equal_the_literal_formulas(kind: str, n_dead: int) -> None:
    row = small.variant("baseline", l1=0.04, l1_warmup=4, aux=1 / 32).objective
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:n_dead] = True
    sae, batch, step = make_sae(kind), make_batch(), 1
    evaluated = Objective(row, 0, 100)(sae, batch, dead, step)
    literal_sae = make_sae(kind).double()
    expected = literal_loss(literal_sae, batch, kind, 0.04 * 2 / 4, 1 / 32, dead)
    assert evaluated.terms.keys() == expected.keys()
    for name, term in evaluated.terms.items():
        torch.testing.assert_close(term.double(), expected[name], rtol=1e-5, atol=1e-7)
    sum(evaluated.terms.values()).backward()
    sum(expected.values()).backward()
    for (name, parameter), reference in zip(sae.named_parameters(), literal_sae.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad.double(), reference.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_tokens_that_are_not_kept_have_no_gradient(kind: str) -> None:
    objective = Objective(small.variant("baseline").objective, 0, 100)
    dead = torch.arange(D_SAE) < 5
    gradients = []
    for value in (0.0, 7.0):
        batch = make_batch()
        batch = batch._replace(x=torch.where(batch.keep.unsqueeze(-1), batch.x, value))
        sae = make_sae(kind)
        sum(objective(sae, batch, dead, 100).terms.values()).backward()
        gradients.append([parameter.grad for parameter in sae.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("aux", [1 / 32, 0.0])
def test_auxiliary_loss_revives_dead_latents(kind: str, aux: float) -> None:
    """Latents whose pre-activation is far below zero for every token fire again, and do not without the term."""
    sae, batch = make_sae(kind), make_batch()
    with torch.no_grad():
        sae.b_enc[:12] = -3.0
    objective = Objective(replace(small.variant("topk").objective, aux=aux), 0, 100)
    adam = torch.optim.Adam(sae.parameters(), lr=0.02)
    dead = torch.arange(D_SAE) < 12
    assert not objective(sae, batch, dead, 0).codes.fired(batch.keep)[:12].any()
    revived = torch.zeros(12, dtype=torch.bool)
    for step in range(400):
        adam.zero_grad()
        evaluated = objective(sae, batch, dead, step)
        sum(evaluated.terms.values()).backward()
        adam.step()
        revived |= evaluated.codes.fired(batch.keep)[:12]
    assert revived.float().mean() > 0.5 if aux else not revived.any()


def test_l0_is_the_number_of_active_latents_over_all_and_reaches_thresholds_alone() -> None:
    """Half-way up the ramp. A threshold feels pre-activations less than half a bandwidth away from it."""
    row = load_variants(small.TABLE)["jumprelu"]
    assert (row.objective.l0, row.objective.l1_warmup) == (2.0, 1000)
    sae, batch = SAE(D_IN, D_SAE, JumpReLU(D_SAE, ThresholdRow(0.5, 0.4, "normalised"))), make_batch()
    sae.initialise(1)
    assert isinstance(sae.sparsifier, JumpReLU)
    with torch.no_grad():
        sae.b_enc.copy_(torch.linspace(-0.3, 0.3, D_SAE))
        sae.sparsifier.log_threshold.copy_(torch.linspace(-2, 0, D_SAE))
    terms = Objective(row.objective, 0, 4000)(sae, batch, torch.zeros(D_SAE, dtype=torch.bool), 499).terms
    active, near = 0, [0] * D_SAE
    for row_index, position in (batch.segments >= 0).nonzero().tolist():
        pre = ((batch.x[row_index, position] - sae.b_dec) @ sae.W_enc + sae.b_enc).tolist()
        for latent, threshold in enumerate(sae.sparsifier.threshold.tolist()):
            active += pre[latent] > threshold
            near[latent] += abs(pre[latent] - threshold) < 0.4 / 2
    weight = 2.0 * (500 / 1000) / D_SAE / batch.n_kept
    assert 0 < active < D_SAE * batch.n_kept
    assert terms["l0"].item() == pytest.approx(weight * active)
    terms["l0"].backward()
    expected = [-weight * count / 0.4 * of for count, of in zip(near, sae.sparsifier.threshold.tolist(), strict=True)]
    assert max(near) > 0
    torch.testing.assert_close(sae.sparsifier.log_threshold.grad, torch.tensor(expected))
    others = [parameter for name, parameter in sae.named_parameters() if "threshold" not in name]
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in others)


@pytest.mark.parametrize("name", ["t-sae", "matryoshka"])
def test_the_reconstruction_loss_is_the_weighted_sum_over_levels(name: str) -> None:
    weights = {"t-sae": {0.2: 0.2, 1.0: 0.8}, "matryoshka": dict.fromkeys((1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0), 0.2)}
    row = replace(load_variants(small.TABLE)[name].objective, contrast=None, reconstruction_boost=BoostRow(3.0, 9, 0))
    sae, batch = make_sae("topk"), make_batch()
    terms = Objective(row, 0, 100)(sae, batch, torch.zeros(D_SAE, dtype=torch.bool), 0).terms
    codes, expected = sae.encode(batch.x).detach(), 0.0
    for share, weight in weights[name].items():
        first = max(1, round(share * D_SAE))
        error = batch.x - (codes[..., :first] @ sae.W_dec[:first] + sae.b_dec)
        expected += weight * float(error[batch.keep].detach().square().sum()) / batch.n_kept
    assert list(terms) == ["reconstruction"]
    assert terms["reconstruction"].item() == pytest.approx(3.0 * expected, rel=1e-5)


def test_terms_without_weight_are_absent() -> None:
    objective = Objective(replace(small.variant("topk").objective, aux=0.0), 0, 100)
    assert objective.terms == ["reconstruction"]
    terms = objective(make_sae("topk"), make_batch(), torch.ones(D_SAE, dtype=torch.bool), 0).terms
    assert list(terms) == ["reconstruction"]


def test_l1_weight_ramps_over_its_warm_up() -> None:
    objective = Objective(small.variant("baseline", l1=0.04, l1_warmup=4).objective, 0, 100)
    assert [objective.l1_at(step) for step in (0, 1, 3, 100)] == pytest.approx([0.01, 0.02, 0.04, 0.04])
