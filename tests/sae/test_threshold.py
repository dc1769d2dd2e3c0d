"""Sparsifiers with thresholds, against SAELens's and against plain selection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.sae.architecture import ThresholdRow
from stages.sae.products import largest
from stages.sae.threshold import BatchTopK, JumpReLU

N, D_SAE = 50, 12


def pre_activations(seed: int = 0) -> Tensor:
    return torch.randn(N, D_SAE, generator=torch.Generator().manual_seed(seed))


def jump(initial: float = 0.4, bandwidth: float = 0.6) -> JumpReLU:
    return JumpReLU(D_SAE, ThresholdRow(initial, bandwidth, "normalised"))


def test_jumprelu_and_its_gradients_are_those_of_saelens() -> None:
    pytest.importorskip("sae_lens")
    from sae_lens.saes.jumprelu_sae import JumpReLU as Theirs
    from sae_lens.saes.jumprelu_sae import Step

    ours = jump()
    with torch.no_grad():
        ours.log_threshold.add_(0.3 * torch.randn(D_SAE, generator=torch.Generator().manual_seed(1)))
    weight = torch.randn(N, D_SAE, generator=torch.Generator().manual_seed(2))
    pre, their_pre = (pre_activations().requires_grad_() for _ in range(2))
    threshold = ours.threshold.detach().clone().requires_grad_()
    loss = (ours.select(pre) * weight).sum() + (ours.count(pre) * weight[:, 0]).sum()
    theirs = (Theirs.apply(their_pre, threshold, 0.6, False) * weight).sum()
    theirs = theirs + (Step.apply(their_pre, threshold, 0.6, False).sum(-1) * weight[:, 0]).sum()
    torch.testing.assert_close(loss, theirs)
    loss.backward()
    theirs.backward()
    torch.testing.assert_close(pre.grad, their_pre.grad)
    torch.testing.assert_close(ours.log_threshold.grad, threshold.grad * threshold.detach())


@pytest.mark.parametrize("rms", [0.01, 3.0])
def test_thresholds_take_up_the_scale_of_the_first_batch(rms: float) -> None:
    measured, literal = JumpReLU(D_SAE, ThresholdRow(0.1, 0.5)), jump(0.1, 0.5)
    for each in (measured, literal):
        each.calibrate(rms)
    torch.testing.assert_close(measured.threshold, torch.full((D_SAE,), 0.1 * rms))
    assert measured.bandwidth.item() == pytest.approx(0.5 * rms)
    torch.testing.assert_close(literal.threshold, torch.full((D_SAE,), 0.1))
    assert literal.bandwidth.item() == pytest.approx(0.5)


def test_batchtopk_keeps_what_saelens_keeps() -> None:
    pytest.importorskip("sae_lens")
    from sae_lens.saes.batchtopk_sae import BatchTopK as Theirs

    pre = pre_activations()
    torch.testing.assert_close(BatchTopK(3).select(pre), Theirs(3)(pre))


def test_batchtopk_spends_nothing_on_tokens_that_do_not_count() -> None:
    pre, keep = pre_activations(), torch.arange(N) % 4 > 0
    pre[~keep] = 100.0
    found = BatchTopK(3).select(pre, keep)
    torch.testing.assert_close(found[keep], BatchTopK(3).select(pre[keep]))
    assert not found[~keep].any()


def test_batchtopk_infers_by_the_running_mean_of_its_smallest_codes() -> None:
    sparsifier, expected = BatchTopK(3), None
    for seed in range(5):
        codes = sparsifier.select(pre_activations(seed))
        sparsifier.follow()
        smallest = codes[codes > 0].min()
        expected = smallest if expected is None else 0.99 * expected + 0.01 * smallest
    assert sparsifier.threshold.item() == pytest.approx(expected.item(), rel=1e-5)
    sparsifier.eval()
    pre = pre_activations(9)
    inferred = sparsifier.select(pre)
    torch.testing.assert_close(inferred, torch.where(pre > expected, pre, 0.0))
    torch.testing.assert_close(sparsifier.select(pre[:1]), inferred[:1])
    torch.testing.assert_close(sparsifier.for_inference(D_SAE, 2.0).select(2 * pre), 2 * inferred)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(0, 2**31),
    st.sampled_from(["normal", "few positive", "equal", "sorted"]),
    st.data(),
)
def test_the_largest_values_are_found(n: int, seed: int, kind: str, data: st.DataObject) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    if kind == "few positive":
        values = values - 2
    elif kind == "equal":
        values = torch.ones(n)
    elif kind == "sorted":  # a sample sees all parts alike, but its bound may hold too few
        values = values.sort().values
    count = data.draw(st.integers(1, n))
    places, found = largest(values, count)
    assert torch.equal(values[places], found) and torch.equal(places, places.sort().values)
    positive = values[values > 0].sort(descending=True).values
    if len(positive) > count:
        positive = positive[: int((positive >= positive[count - 1]).sum())]  # ties
    assert torch.equal(found.sort(descending=True).values, positive)


def test_no_largest_values_of_none() -> None:
    assert len(largest(torch.ones(5), 0)[0]) == 0
