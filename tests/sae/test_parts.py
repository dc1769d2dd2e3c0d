"""Parts around the encoder: each against a slow or foreign reference, and all of them against the order of tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages.sae import load_variants
from stages.sae.architecture import (
    NO_PARTS,
    AttentionRow,
    ConvolutionRow,
    GateRow,
    IntegratorRow,
    NormRow,
    PartsRow,
    PositionRow,
    PredictionRow,
    ResidualRow,
)
from stages.sae.inputs import DilatedConvolution, TemporalAttention
from stages.sae.layout import Layout, layout_of
from stages.sae.model import SAE
from stages.sae.outputs import BatchNorm, Integrator, LayerNorm
from stages.sae.sparsifier import ReLU, TopK

D_IN, D_SAE, CONTEXT = 8, 24, 14
TABLE = Path(__file__).parents[2] / "variants.yaml"
PARTS = {
    "position": PartsRow(position=PositionRow(3, 0.5)),
    "attention": PartsRow(attention=AttentionRow(2, layer_norm=False, skip=False)),
    "attention with skip": PartsRow(attention=AttentionRow(2, layer_norm=True, skip=True)),
    "convolution": PartsRow(convolution=ConvolutionRow(3, (1, 2, 4))),
    "residual": PartsRow(residual=ResidualRow(16)),
    "batch norm": PartsRow(norm=NormRow("batch")),
    "layer norm": PartsRow(norm=NormRow("layer")),
    "layer norm of codes": PartsRow(norm=NormRow("layer_of_codes")),
    "gate": PartsRow(gate=GateRow(4, 2.0)),
    "integrator": PartsRow(integrator=IntegratorRow(0.999)),
    "prediction": PartsRow(prediction=PredictionRow(2, 2)),
    "all": PartsRow(
        PositionRow(3, 0.5),
        AttentionRow(2, layer_norm=True, skip=True),
        ConvolutionRow(2, (1, 3)),
        ResidualRow(16),
        NormRow("layer"),
        GateRow(4, 2.0),
        IntegratorRow(0.9),
    ),
}
ORDERED = [name for name, row in PARTS.items() if row.ordered]


def segments() -> Tensor:
    """Two rows of documents of several lengths, with BOS and padding."""
    return torch.tensor(
        [
            [-1, 0, 0, 0, 0, 0, -1, 1, 1, 1, 1, 2, 2, 2],
            [-1, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, -1, -1],
        ],
        dtype=torch.int32,
    )


def randomised(row: PartsRow, seed: int = 0) -> SAE:
    """An SAE whose parts all matter."""
    generator = torch.Generator().manual_seed(seed)
    sae = SAE(D_IN, D_SAE, TopK(5), row, CONTEXT)
    sae.initialise(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return sae.eval()


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(2, CONTEXT, D_IN, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PARTS)
def test_forward_is_decode_of_encode(name: str) -> None:
    sae, x = randomised(PARTS[name]), inputs()
    torch.testing.assert_close(sae.decode(sae.encode(x, segments())), sae(x, segments()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PARTS)
def test_a_token_depends_on_nothing_after_it_and_on_no_other_document(name: str) -> None:
    sae, x, place = randomised(PARTS[name]), inputs(), segments()
    before = sae.encode(x, place)
    for row, position in [(0, 3), (0, 9), (1, 1), (1, 6), (0, 0), (0, 6), (1, 13)]:
        changed = x.clone()
        changed[row, position] = 100.0 if place[row, position] >= 0 else torch.nan
        after = sae.encode(changed, place)
        same = (place[row] != place[row, position]) | (torch.arange(CONTEXT) < position)
        torch.testing.assert_close(after[row][same], before[row][same], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[1 - row], before[1 - row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "attention with skip", "convolution", "integrator", "prediction"])
def test_a_token_depends_on_earlier_tokens_of_its_document(name: str) -> None:
    sae, x = randomised(PARTS[name]), inputs()
    changed = x.clone()
    changed[1, 5, 0] += 1.0
    later = slice(6, 12)
    assert not torch.allclose(sae.encode(changed, segments())[1, later], sae.encode(x, segments())[1, later], atol=1e-3)


@pytest.mark.parametrize("name", ORDERED)
def test_without_segments_a_row_is_one_document_behind_bos(name: str) -> None:
    sae, x = randomised(PARTS[name]), inputs()
    one = torch.zeros(2, CONTEXT, dtype=torch.int32)
    one[:, 0] = -1
    torch.testing.assert_close(sae.encode(x), sae.encode(x, one))
    torch.testing.assert_close(sae.encode(x[:, :9], start=5), sae.encode(x[:, :9], torch.zeros(2, 9), start=5))


@pytest.mark.parametrize("name", ORDERED)
def test_parts_that_need_order_refuse_tokens_without_it(name: str) -> None:
    with pytest.raises(ValueError, match=r"\[batch, seq, d_in\], got \[5, 8\]"):
        randomised(PARTS[name]).encode(torch.randn(5, D_IN))


@pytest.mark.parametrize("name", ["position", "gate"])
def test_positions_are_those_of_the_stored_row(name: str) -> None:
    sae, x = randomised(PARTS[name]), inputs()
    whole = sae.encode(x, segments())
    torch.testing.assert_close(sae.encode(x[:, 4:], segments()[:, 4:], start=4), whole[:, 4:])
    assert not torch.allclose(sae.encode(x[:, 4:], segments()[:, 4:], start=0), whole[:, 4:], atol=1e-3)


@pytest.mark.parametrize("name", ["convolution", "residual", "attention with skip", "batch norm"])
def test_parts_start_as_the_plain_sae(name: str) -> None:
    plain, sae = (SAE(D_IN, D_SAE, TopK(5), row, CONTEXT) for row in (NO_PARTS, PARTS[name]))
    for each in (plain, sae):
        each.initialise(3)
    sae.calibrate(inputs(), segments())
    keep = segments() >= 0
    expected = plain.encode(inputs())[keep]
    if name == "batch norm":  # centring is all that it does at first
        expected = TopK(5).select((inputs() @ plain.W_enc)[keep] - (inputs() @ plain.W_enc)[keep].mean(0))
    torch.testing.assert_close(sae.eval().encode(inputs(), segments())[keep], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_attention_against_a_loop_over_tokens(layer_norm: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    attention = TemporalAttention(AttentionRow(2, layer_norm=layer_norm, skip=True), D_IN)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x, place = inputs(), segments()
    result = attention(x, layout_of(x, place, 0))
    y = nn.functional.layer_norm(x, (D_IN,), attention.norm.weight, attention.norm.bias) if layer_norm else x
    for row, t in [(0, 1), (0, 5), (0, 9), (1, 11)]:
        seen = [s for s in range(t + 1) if place[row, s] == place[row, t]]
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            query = (y[row, t] @ attention.query)[head]
            keys, values = ((y[row, seen] @ matrix)[:, head] for matrix in (attention.key, attention.value))
            heads.append(torch.softmax(keys @ query / math.sqrt(4), 0) @ values)
        expected = x[row, t] + torch.cat(heads) @ attention.output
        torch.testing.assert_close(result[row, t], expected, rtol=1e-4, atol=1e-4)


def test_attention_without_skip_starts_at_the_inputs_themselves() -> None:
    x = torch.randn(1, CONTEXT, 256, generator=torch.Generator().manual_seed(1))
    x = x / x.norm(dim=-1, keepdim=True)
    started = {}
    for initial in ("self", "random"):
        attention = TemporalAttention(AttentionRow(4, layer_norm=False, skip=False, initial=initial), 256)
        with torch.no_grad():
            attention.initialise(torch.Generator().manual_seed(0))
        started[initial] = attention(x, layout_of(x, torch.zeros(1, CONTEXT), 0))
    torch.testing.assert_close(started["self"], x, rtol=0, atol=1e-3)
    assert (started["random"] - x).norm() > 0.5 * x.norm()


def test_convolution_against_torch_on_one_document() -> None:
    row = ConvolutionRow(3, (1, 2, 4))
    generator = torch.Generator().manual_seed(0)
    convolution = DilatedConvolution(row, D_IN)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = inputs()
    expected = x.clone()
    for branch, dilation in enumerate(row.dilations):
        padded = nn.functional.pad(x.transpose(1, 2), (2 * dilation, 0))
        weight = convolution.taps[branch].flip(0).T.unsqueeze(1)  # torch's last tap is the present
        found = nn.functional.conv1d(padded, weight, dilation=dilation, groups=D_IN)
        expected = expected + convolution.strength[branch] * found.transpose(1, 2)
    result = convolution(x, layout_of(x, torch.zeros(2, CONTEXT), 0))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert sorted(convolution.by_lag()) == [0, 1, 2, 4, 8]


def test_integrator_against_a_loop_and_its_gradient() -> None:
    integrator = Integrator(IntegratorRow(0.999), 5).double()
    with torch.no_grad():
        integrator.logit.copy_(torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    events = torch.rand(2, CONTEXT, 5, dtype=torch.float64, requires_grad=True)
    place = Layout(segments(), 0)
    states = integrator(events, place)
    decay = integrator.decay
    for row in range(2):
        state, document = torch.zeros(5, dtype=torch.float64), None
        for t in range(CONTEXT):
            if place.segments[row, t] != document or document < 0:
                state = torch.zeros(5, dtype=torch.float64)
            document = int(place.segments[row, t])
            state = decay * state + (1 - decay) * events[row, t] * (document >= 0)
            torch.testing.assert_close(states[row, t], state)

    def work(events: Tensor, logit: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(integrator, {"logit": logit}, (events, place))
        return result

    logit = integrator.logit.detach().requires_grad_()
    assert torch.autograd.gradcheck(work, (events, logit))


def test_batch_norm_against_torch_and_folded() -> None:
    ours, theirs = BatchNorm(NormRow("batch"), 6), nn.BatchNorm1d(6, momentum=0.01)
    pre = 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 2
    keep = torch.arange(40) % 3 > 0
    with torch.no_grad():
        ours.gain.copy_(torch.linspace(0.5, 2, 6))
        theirs.weight.copy_(ours.gain)
    found = ours(pre, keep).pre
    torch.testing.assert_close(found[keep], theirs(pre[keep]))
    ours.follow()
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    factor, offset = ours.eval().affine()
    torch.testing.assert_close(ours(pre, keep).pre, pre * factor + offset)


def test_batch_norm_starts_at_the_spread_it_finds() -> None:
    pre = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 3, 6)
    measured, one = BatchNorm(NormRow("batch"), 6), BatchNorm(NormRow("batch", "one"), 6)
    for norm in (measured, one):
        norm.calibrate(pre)
    torch.testing.assert_close(measured(pre, None).pre.std(0), pre.std(0), rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(one(pre, None).pre.std(0)[1:], torch.ones(5), rtol=1e-2, atol=1e-2)


def test_layer_norm_against_a_loop_over_tokens() -> None:
    sae, x = randomised(PARTS["layer norm"]), inputs()
    assert isinstance(sae.norm, LayerNorm)
    found = sae.encode(x, segments()).detach()
    for row, t in (segments() >= 0).nonzero().tolist():
        pre = ((x[row, t] - sae.b_dec) @ sae.W_enc).detach()
        mean = sum(pre) / D_SAE
        deviation = (sum((pre - mean) ** 2) / D_SAE) ** 0.5
        normed = sae.norm.gain * (pre - mean) / deviation + sae.b_enc
        chosen = sorted(range(D_SAE), key=normed.tolist().__getitem__)[-5:]
        for latent in range(D_SAE):
            code = deviation * normed[latent].clamp(min=0) if latent in chosen else torch.zeros(())
            torch.testing.assert_close(found[row, t, latent], code.detach(), rtol=1e-4, atol=1e-5)


def test_layer_norm_keeps_the_scale_of_each_token() -> None:
    """Biases stand beside normalised pre-activations: without the norm, they would weigh less beside larger ones."""
    sae, x = randomised(PARTS["layer norm"]), inputs()
    with torch.no_grad():
        sae.b_dec.zero_()
    assert sae.b_enc.abs().mean() > 0.1
    torch.testing.assert_close(sae.encode(7 * x, segments()), 7 * sae.encode(x, segments()), rtol=1e-3, atol=1e-4)


def test_gates_are_a_sigmoid_of_an_affine_map_of_the_positions_embedding() -> None:
    sae, x = randomised(PARTS["gate"]), inputs()
    assert sae.gate is not None
    table, weight, bias = (parameter.tolist() for parameter in (sae.gate.table, sae.gate.weight, sae.gate.bias))
    ungated = SAE(D_IN, D_SAE, TopK(5))
    ungated.load_state_dict({name: tensor for name, tensor in sae.state_dict().items() if "gate" not in name})
    plain, start = ungated.encode(x[:, 4:]), 4
    found = sae.encode(x[:, 4:], segments()[:, 4:], start=start)
    for t in range(CONTEXT - start):
        for latent in range(D_SAE):
            logit = sum(table[t + start][i] * weight[i][latent] for i in range(4)) + bias[latent]
            factor = 1 / (1 + math.exp(-logit))
            torch.testing.assert_close(found[:, t, latent], factor * plain[:, t, latent], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["multiscale", "paper"])
def test_gates_start_equal_at_the_sigmoid_of_their_bias(name: str) -> None:
    row = PartsRow(gate=load_variants(TABLE)[name].parts.gate)
    gated, plain = (SAE(D_IN, D_SAE, TopK(5), parts, CONTEXT) for parts in (row, NO_PARTS))
    for each in (gated, plain):
        each.initialise(0)
    assert row.gate is not None and row.gate.bias == 2.0
    found, expected = gated.encode(inputs(), segments()), 0.8807970779778823 * plain.encode(inputs(), segments())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_of_codes_is_pytorchs_and_leaves_no_zero() -> None:
    plain, literal = (SAE(D_IN, D_SAE, ReLU(), parts, CONTEXT) for parts in (NO_PARTS, PARTS["layer norm of codes"]))
    for sae in (plain, literal):
        sae.initialise(0)
    codes = literal.encoding(inputs()).codes
    torch.testing.assert_close(
        codes.dense(), torch.nn.functional.layer_norm(plain.encode(inputs()), (D_SAE,), eps=1e-12)
    )
    torch.testing.assert_close(codes.total(), codes.dense().abs().sum(-1))
    assert (codes.count() == D_SAE).all() and (plain.encoding(inputs()).codes.count() < D_SAE).all()
    keep = torch.ones(inputs().shape[:-1], dtype=torch.bool)
    assert codes.fired(keep).all() and (codes.firings(keep) == keep.sum()).all()


def test_codes_that_may_be_negative_count_as_such_behind_a_gate_too() -> None:
    """As in 004 to the letter, which has both."""
    sae = SAE(D_IN, D_SAE, ReLU(), PartsRow(norm=NormRow("layer_of_codes"), gate=GateRow(4, 2.0)), CONTEXT)
    sae.initialise(0)
    codes, keep = sae.encoding(inputs(), segments()).codes, segments() >= 0
    assert (codes.dense() < 0).any()
    torch.testing.assert_close(codes.total(), codes.dense().abs().sum(-1))
    assert torch.equal(codes.firings(keep), (codes.dense()[keep] != 0).sum(0))
    assert torch.equal(codes.fired(keep), (codes.dense()[keep] != 0).any(0))


def test_prediction_is_that_of_saelens_on_one_document() -> None:
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.temporal_sae import TemporalSAE, TemporalSAEConfig

    del sae_lens
    sae = randomised(PartsRow(prediction=PredictionRow(2, 1)))
    config = TemporalSAEConfig(
        d_in=D_IN, d_sae=D_SAE, n_heads=2, bottleneck_factor=1, kval_topk=5, tied_weights=False, device="cpu"
    )
    theirs = TemporalSAE(config)
    attention = theirs.attn_layers[0]
    assert sae.prediction is not None
    with torch.no_grad():
        theirs.W_enc.copy_(sae.W_enc / theirs.lam)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.zero_()
        sae.b_dec.zero_()
        sae.b_enc.zero_()
        pairs = {"q_target": "query", "k_ctx": "key", "v_ctx": "value", "c_proj": "output"}
        for name, our_name in pairs.items():
            ours = getattr(sae.prediction, our_name)
            getattr(attention, name).weight.copy_(ours.weight)
            getattr(attention, name).bias.copy_(ours.bias)
    x = inputs()
    novel, predicted = theirs.encode_with_predictions(x)
    found = sae.encoding(x, torch.zeros(2, CONTEXT, dtype=torch.int32)).codes
    torch.testing.assert_close(found.events.dense(), novel, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.dense(), novel + predicted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(x, torch.zeros(2, CONTEXT, dtype=torch.int32)), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["integrator", "prediction"])
def test_dense_codes_name_their_events(name: str) -> None:
    found = randomised(PARTS[name]).encoding(inputs(), segments()).codes
    assert (found.events.count() <= 5).all() and (found.count() > 5).any()
    assert randomised(NO_PARTS).encoding(inputs()).codes.events.count().max() == 5


def test_pruned_latents_never_fire() -> None:
    for row in PARTS.values():
        sae = randomised(row)
        sae.pruned[::2] = True
        codes = sae.encoding(inputs(), segments()).codes.events.dense()
        assert not codes[..., ::2].any() and codes[..., 1::2].any()
