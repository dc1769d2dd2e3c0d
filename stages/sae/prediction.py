"""Codes predicted from those of earlier tokens, the first half of Temporal Feature Analysis."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stages.sae.architecture import PredictionRow
from stages.sae.attention import attend
from stages.sae.layout import Layout
from stages.sae.products import affine, product

EPSILON = 1e-6
"""Added to the norm of a prediction before it is divided by."""


class Predicted(NamedTuple):
    """What earlier tokens tell about each token."""

    codes: Float[Tensor, "batch seq d_sae"]
    """Predicted codes, scaled so that they account for as much of the inputs as their direction can."""
    inputs: Float[Tensor, "batch seq d_in"]
    """What that accounts for."""


class Prediction(nn.Module):
    """`relu(attention(query = z, key = value = z of earlier tokens))` with `z = relu(x W_enc)`, then projected.

    Lubana et al. 2025, Priors in Time (arXiv 2511.01836), section 3. Differences: queries, keys and values are
    `bottleneck` times narrower than d_sae (there 1 in the paper's runs, 64 in SAELens's class for queries and keys),
    and only tokens of the same document are attended to. The first token of a document attends to a
    state of zeros, as there.
    """

    def __init__(self, row: PredictionRow, d_sae: int) -> None:
        super().__init__()
        inner = d_sae // row.bottleneck
        if inner < 1 or inner % row.heads:
            raise ValueError(f"{row.heads} heads do not divide d_sae / bottleneck = {d_sae} / {row.bottleneck}")
        self.heads = row.heads
        self.query, self.key, self.value = (nn.Linear(d_sae, inner) for _ in range(3))
        self.output = nn.Linear(inner, d_sae)

    def initialise(self, generator: torch.Generator) -> None:
        """Rows of unit norm over the root of the width that they lead to, as the paper's code; no biases."""
        for linear, width in ((self.query, self._head), (self.key, self._head), (self.value, self._head)):
            _unit_rows(linear, width, generator)
        _unit_rows(self.output, self.output.in_features, generator)

    @property
    def _head(self) -> int:
        return self.query.out_features // self.heads

    def forward(
        self,
        x: Float[Tensor, "batch seq d_in"],
        z: Float[Tensor, "batch seq d_sae"],
        W_dec: Float[Tensor, "d_sae d_in"],
        layout: Layout,
        products: torch.dtype = torch.float32,
    ) -> Predicted:
        """Predict `x` from `z`, both without what the decoder adds to every token; products in the dtype `products`."""
        z = z.masked_fill(~layout.keep.unsqueeze(-1), 0.0)
        before = layout.earlier(z, 1)
        query = affine(z, self.query, products)
        key, value = (affine(before, layer, products) for layer in (self.key, self.value))
        codes = affine(attend(query, key, value, self.heads, layout), self.output, products).relu()
        direction = product(codes, W_dec, products)
        scale = (direction * x).sum(-1, keepdim=True) / (direction.norm(dim=-1, keepdim=True) + EPSILON).square()
        return Predicted(codes * scale, direction * scale)


def _unit_rows(linear: nn.Linear, width: int, generator: torch.Generator) -> None:
    linear.weight.normal_(0.0, 1.0, generator=generator)
    linear.weight.div_(linear.weight.norm(dim=1, keepdim=True) * width**0.5)
    linear.bias.zero_()
