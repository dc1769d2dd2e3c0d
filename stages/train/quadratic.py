"""Quadratic forms of codes over windows: values from the window's Gram matrix, all gradients from one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """`factor * sum_t |(operator H)_t - offset_t initial|^2` with weighted latents, or a form with that gradient.

    `gradient = 2 factor (operator H - offset initial)`: exact for the Laplacian of pairs; for a memory it is the
    gradient towards codes that are pulled, as the memory itself is held constant.
    """

    kind: str
    """`temporal` for pairs, `buffer` for memories."""
    scale: str
    """Name of the scale."""
    operator: Float[Tensor, "batch seq seq"]
    """Pairs: the Laplacian. Memory: identity minus the running mean, zero in rows that have no memory."""
    factor: float
    """Weight over the number of pairs, or of tokens with a memory."""
    count: int
    """That number."""
    offset: Float[Tensor, "batch seq"] | None = None
    """Share of a document's initial buffer in each memory; None for pairs."""
    initial: Float[Tensor, " d_sae"] | None = None
    """The initial buffer; None for pairs."""

    @property
    def name(self) -> str:
        """Name of the loss term."""
        return f"{self.kind}_{self.scale}"

    def memory(self, codes: Float[Tensor, "batch seq d_sae"]) -> Float[Tensor, "batch seq d_sae"]:
        """What the buffer holds at each token; zero where it has none. Of `buffer` alone."""
        assert self.offset is not None and self.initial is not None
        has_one = self.operator.diagonal(dim1=1, dim2=2)  # no code is part of its own memory
        return codes * has_one.unsqueeze(-1) - self.operator @ codes + self.offset.unsqueeze(-1) * self.initial


class Quadratics(torch.autograd.Function):
    """Values of quadratics from the Gram matrix; their gradients, whatever their number, from one batched product.

    Both products have factors in `dtype`, values and gradients have the dtype of the codes.
    """

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, weights: Tensor, quadratics: Sequence[Quadratic], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        weighted = (codes * weights).to(dtype)
        gram = torch.bmm(weighted, codes.to(dtype).transpose(1, 2)).to(codes.dtype)
        ctx.save_for_backward(weighted, weights)
        ctx.quadratics = quadratics
        return tuple(q.factor * _value(q, gram, weighted, weights) for q in quadratics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weighted, weights = ctx.saved_tensors
        return gradient_of(weighted, weights, ctx.quadratics, gradients), None, None, None


def _value(q: Quadratic, gram: Float[Tensor, "batch seq seq"], weighted: Tensor, weights: Tensor) -> Float[Tensor, ""]:
    """A quadratic's value but for its factor, from the Gram matrix of codes under the weights of latents."""
    if q.offset is None or q.initial is None:
        return (q.operator * gram).sum()
    moved = torch.bmm(q.operator, gram)
    onto_initial = (weighted.flatten(0, 1) @ q.initial.to(weighted.dtype).unsqueeze(-1)).view(*q.offset.shape, 1)
    projected = torch.bmm(q.operator, onto_initial.to(gram.dtype)).squeeze(-1)
    square = q.offset.square().sum() * (weights * q.initial.square()).sum()
    return (moved * q.operator).sum() - 2 * (q.offset * projected).sum() + square


def gradient_of(
    weighted: Float[Tensor, "batch seq d_sae"],
    weights: Float[Tensor, " d_sae"],
    quadratics: Sequence[Quadratic],
    gradients: Sequence[Tensor | float],
) -> Float[Tensor, "batch seq d_sae"]:
    """`sum_q gradient_q * 2 factor_q (operator_q H - offset_q initial_q)`, columns weighted. The product is in the
    dtype of `weighted`, the result in that of `weights`."""
    factors = [2 * q.factor * gradient for q, gradient in zip(quadratics, gradients, strict=True)]
    operator = torch.zeros_like(quadratics[0].operator)
    for factor, q in zip(factors, quadratics, strict=True):
        operator += factor * q.operator
    result = torch.bmm(operator.to(weighted.dtype), weighted).to(weights.dtype)
    for factor, q in zip(factors, quadratics, strict=True):
        if q.offset is not None and q.initial is not None:
            result.flatten(0, -2).addr_(q.offset.flatten() * factor, q.initial * weights, alpha=-1)
    return result


def lags_of(within: Bool[Tensor, "batch seq seq"]) -> Int[Tensor, "seq seq"]:
    """How far row t of such a matrix lies behind column s: t - s."""
    position = torch.arange(within.shape[1], device=within.device)
    return position[:, None] - position


def laplacian(adjacency: Float[Tensor, "batch seq seq"]) -> Float[Tensor, "batch seq seq"]:
    """Degree minus adjacency: `tr(H' L H)` is the sum of `|h_s - h_t|^2` over pairs."""
    return torch.diag_embed(adjacency.sum(-1)) - adjacency


def memory_of(
    within: Bool[Tensor, "batch seq seq"], lag: int, mixing: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "batch seq seq"], Float[Tensor, "batch seq"]]:
    """What a buffer holds at each token: weights of earlier codes of the document, and of its initial value.

    The buffer starts anew with each document and takes in codes with a delay: at token t it is the running mean
    `m <- (1 - mixing) m + mixing h` over the document's codes up to t - lag.
    """
    age = lags_of(within) - lag
    earlier = within & (age >= 0)
    memory = earlier * (mixing * (1 - mixing) ** age.clamp(min=0).to(dtype))
    return memory, (1 - mixing) ** earlier.sum(-1).to(dtype)
