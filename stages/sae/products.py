"""Matrix products of SAEs: dense ones in the machine's best dtype, sparse ones over active latents only.

With TopK a token uses k of d_sae latents, 1.4 % of them at the usual sizes. Decoding, its backward pass and that of
the encoder are then weighted sums of k rows a token, which `embedding_bag` computes several times
faster than the dense products; only the encoder's forward product stays dense.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def product(
    a: Float[Tensor, "n m"], b: Float[Tensor, "m p"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n p"]:
    """`a @ b` with both factors, and both factors of the backward pass, in `dtype`; the result is float32."""
    if dtype == torch.float32:
        return a @ b
    return (a.to(dtype) @ b.to(dtype)).to(torch.float32)


class Selection:
    """Which `k` of `width` latents each of `n` tokens chose, seen from the tokens and from the latents."""

    def __init__(self, indices: Int[Tensor, "n k"], width: int) -> None:
        self.indices = indices
        self.width = width

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of the flat indices ordered by latent, their tokens, where each latent's run starts.

        The sort is stable, so sums over a latent run over tokens in order: the same bits every time.
        """
        flat = self.indices.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=self.width)
        return order, order // self.indices.shape[1], counts.cumsum(0) - counts

    def gather(self, values: Float[Tensor, "n k"], rows: Float[Tensor, "width d"]) -> Float[Tensor, "n d"]:
        """For each token the sum of its latents' rows, weighted by its values: `codes @ rows`."""
        return F.embedding_bag(self.indices, rows, mode="sum", per_sample_weights=values)

    def scatter(self, values: Float[Tensor, "n k"], rows: Float[Tensor, "n d"]) -> Float[Tensor, "width d"]:
        """For each latent the sum of its tokens' rows, weighted by their values: `codes.T @ rows`."""
        order, tokens, offsets = self._by_latent
        weights = values.flatten()[order]
        return F.embedding_bag(tokens, rows, offsets, mode="sum", per_sample_weights=weights)

    def totals(self, values: Float[Tensor, "n k"]) -> Float[Tensor, " width"]:
        """For each latent the sum of its values over tokens: `codes.sum(0)`."""
        return values.new_zeros(self.width).index_add_(0, self.indices.flatten(), values.flatten())


class _SelectedLinear(torch.autograd.Function):
    """ReLU of the chosen entries of `x @ weight + bias`, which are given; the backward pass knows only these."""

    @staticmethod
    def forward(ctx: Any, chosen: Tensor, x: Tensor, weight: Tensor, bias: Tensor, selection: Selection) -> Tensor:
        values = chosen.relu()
        ctx.save_for_backward(values, x, weight)
        ctx.selection = selection
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, x, weight = ctx.saved_tensors
        selection = ctx.selection
        gradient = gradients[0] * (values > 0)
        x_gradient = selection.gather(gradient, weight.T.contiguous()) if ctx.needs_input_grad[1] else None
        return None, x_gradient, selection.scatter(gradient, x).T, selection.totals(gradient), None


class _RowGradient(torch.autograd.Function):
    """The identity on `selection.gather(values, rows)` that gives `rows` its gradient."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, rows: Tensor, values: Tensor, selection: Selection) -> Tensor:
        ctx.save_for_backward(values)
        ctx.selection = selection
        return gathered.view_as(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        return gradients[0], ctx.selection.scatter(values, gradients[0]), None, None


def topk_linear(
    x: Float[Tensor, "n d_in"],
    weight: Float[Tensor, "d_in d_sae"],
    bias: Float[Tensor, " d_sae"],
    k: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "n k"], Selection]:
    """The k largest of `x @ weight + bias` of each token, after ReLU, and which they are."""
    with torch.no_grad():
        chosen, indices = product(x, weight, dtype).add_(bias).topk(k, dim=-1, sorted=False)
    selection = Selection(indices, weight.shape[1])
    return _SelectedLinear.apply(chosen, x, weight, bias, selection), selection


def decode_selected(
    values: Float[Tensor, "n k"], selection: Selection, rows: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "n d_in"]:
    """`codes @ rows` for codes that are `values` at `selection` and zero elsewhere."""
    gathered = selection.gather(values, rows.detach())
    return _RowGradient.apply(gathered, rows, values.detach(), selection)
