"""Sparse products against the dense ones that they replace, and the SAE's fast path against a plain one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.sae import SAE
from stages.sae.products import Selection, decode_selected, largest_of_rows, product, topk_linear
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from stages.sae.threshold import BatchTopK


def plain(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The SAE as its docstring writes it, differentiated by autograd alone."""
    codes = sae.sparsifier.select((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    return codes, codes @ sae.W_dec + sae.b_dec


def make_sae(sparsifier: Sparsifier, d_in: int = 6, d_sae: int = 20, seed: int = 0) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    sae = SAE(d_in, d_sae, sparsifier)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return sae


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 7), st.integers(0, 2**31), st.data())
def test_selection_sums_equal_dense_products(n: int, width: int, d: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, width))
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(width, generator=generator)[:k] for _ in range(n)])
    mask = torch.zeros(n, width, dtype=torch.bool)
    if data.draw(st.booleans()):
        selection = Selection.of_rows(indices, width)
        mask.scatter_(-1, indices, True)
    else:
        mask = torch.rand(n, width, generator=generator) < 0.4
        selection = Selection.of_places(mask.flatten().nonzero().squeeze(-1), n, width)
    values = torch.randn(len(selection.latents), generator=generator)
    dense = torch.zeros(n, width)
    dense[selection.tokens, selection.latents] = values
    assert torch.equal(selection.dense(values), dense) and torch.equal(dense != 0, mask)
    by_latent, by_token = torch.randn(width, d, generator=generator), torch.randn(n, d, generator=generator)
    torch.testing.assert_close(selection.gather(values, by_latent), dense @ by_latent, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(selection.scatter(values, by_token), dense.T @ by_token, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(selection.by_latent(values), dense.sum(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(selection.by_token(values), dense.sum(1), rtol=1e-4, atol=1e-5)
    first, last = sorted((data.draw(st.integers(0, width)), data.draw(st.integers(0, width))))
    kept, part = selection.between(first, last)
    expected = dense.clone()
    expected[:, :first] = expected[:, last:] = 0
    torch.testing.assert_close(part.gather(values[kept], by_latent), expected @ by_latent, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 70) | st.integers(1, 20).map(lambda groups: groups * 8),
    st.integers(1, 9),
    st.integers(2, 1000),
    st.integers(0, 2**31),
)
def test_the_largest_of_rows_are_those_of_topk(n: int, width: int, k: int, values: int, seed: int) -> None:
    """Among few different values there are ties: which of them are taken is open, how large they are is not."""
    k = min(k, width)
    pre = torch.randint(values, (n, width), generator=torch.Generator().manual_seed(seed)).float()
    chosen, indices = largest_of_rows(pre, k)
    assert torch.equal(chosen, pre.gather(1, indices))
    assert all(len(set(row)) == k for row in indices.tolist())
    assert torch.equal(chosen.sort(-1, descending=True).values, pre.topk(k, dim=-1).values)


def test_gradients_of_the_sparse_functions_are_right() -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight, bias, rows = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 4), (4, 9), (9,), (9, 4))
    )

    def work(x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        values, selection = topk_linear(x, weight, bias, 3)
        return decode_selected(values, selection, rows) + selection.by_token(values).unsqueeze(-1)

    assert torch.autograd.gradcheck(work, (x, weight, bias, rows), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("sparsifier", [ReLU(), TopK(3), TopK(20), BatchTopK(3)])
@pytest.mark.parametrize("shape", [(7, 6), (2, 5, 6)])
def test_fast_path_equals_the_plain_one(sparsifier: Sparsifier, shape: tuple[int, ...]) -> None:
    fast, reference = make_sae(sparsifier), make_sae(sparsifier)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    codes = fast.encoding(x).codes
    expected_codes, expected = plain(reference, x)
    reconstruction = fast.decode_sparse(codes)
    torch.testing.assert_close(codes.dense(), expected_codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reconstruction, expected, rtol=1e-5, atol=1e-5)
    for loss in (reconstruction, expected):
        (loss - x).square().sum().backward()
    for (name, parameter), other in zip(fast.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("sparsifier", [ReLU(), TopK(4), BatchTopK(4)])
def test_codes_count_and_sum_alike_in_both_forms(sparsifier: Sparsifier) -> None:
    sae = make_sae(sparsifier)
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(5))
    codes, dense = sae.encoding(x).codes, sae.encode(x)
    keep = torch.rand(3, 4, generator=torch.Generator().manual_seed(6)) < 0.4
    torch.testing.assert_close(codes.total(), dense.sum(-1))
    assert torch.equal(codes.count(), (dense > 0).sum(-1))
    assert torch.equal(codes.fired(keep), (dense[keep] > 0).any(0))
    factors = torch.rand(3, 4, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(codes.squares(), dense.square().sum(-1))
    torch.testing.assert_close(codes.scaled(factors).dense(), dense * factors.unsqueeze(-1))
    torch.testing.assert_close(codes.narrowed(9, keep).dense(), dense[keep][:, :9])
    assert not codes.fired(torch.zeros_like(keep)).any()


def test_sparse_path_gives_equal_bits_every_time() -> None:
    sae = make_sae(TopK(8), d_in=64, d_sae=256)
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for _ in range(3):
        sae.zero_grad()
        sae(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in sae.parameters()])
    for first, second, third in zip(*gradients, strict=True):
        assert torch.equal(first, second) and torch.equal(first, third)


def test_bfloat16_product_differentiates_in_bfloat16() -> None:
    a, b = torch.randn(4, 5, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    result = product(a, b, torch.bfloat16)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, a @ b, rtol=3e-2, atol=3e-2)
    result.sum().backward()
    assert a.grad.dtype == torch.float32
    torch.testing.assert_close(a.grad, (torch.ones(4, 3) @ b.T).detach(), rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(b.grad, (a.T @ torch.ones(4, 3)).detach(), rtol=3e-2, atol=3e-2)
    assert a.grad.is_contiguous() and b.grad.is_contiguous()
