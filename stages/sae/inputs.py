"""Parts between the inputs and the encoder, each a map of `[batch, seq, d_in]` onto itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import product as pairs

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stages.sae.architecture import AttentionRow, ConvolutionRow, PartsRow, PositionRow, ResidualRow
from stages.sae.attention import attend
from stages.sae.layout import Layout
from stages.sae.products import affine, product

SELF_LOGIT = 16.0
"""Attention logit of a token with itself where attention starts at `self`."""


class InputPart(nn.Module, ABC):
    """A map of inputs onto inputs."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch seq d_in"], layout: Layout | None, products: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch seq d_in"]:
        """The changed inputs, dense products in the dtype `products`; the layout is there for parts that need one."""


class PositionEmbedding(InputPart):
    """Inputs and a learned embedding of their position, mapped to the width of the inputs: the inputs themselves at
    first, plus a random map of the embedding."""

    def __init__(self, row: PositionRow, d_in: int, context: int) -> None:
        super().__init__()
        self.std = row.std
        self.table = nn.Parameter(torch.empty(context, row.dim))
        self.weight = nn.Parameter(torch.empty(d_in + row.dim, d_in))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the embeddings and their map."""
        d_in = self.weight.shape[1]
        self.table.normal_(0.0, self.std, generator=generator)
        self.weight[:d_in] = torch.eye(d_in)
        self.weight[d_in:].normal_(0.0, self.table.shape[1] ** -0.5, generator=generator)

    def forward(
        self, x: Float[Tensor, "batch seq d_in"], layout: Layout | None, products: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch seq d_in"]:
        assert layout is not None
        d_in = x.shape[-1]
        embedded = self.table @ self.weight[d_in:]
        return product(x, self.weight[:d_in], products) + embedded[layout.positions]


class TemporalAttention(InputPart):
    """Causal multi-head attention over the tokens of a document, each of which sees itself and those before it."""

    def __init__(self, row: AttentionRow, d_in: int) -> None:
        super().__init__()
        if d_in % row.heads:
            raise ValueError(f"{row.heads} heads do not divide d_in = {d_in}")
        self.row = row
        self.query, self.key, self.value, self.output = (nn.Parameter(torch.empty(d_in, d_in)) for _ in range(4))
        self.norm = nn.LayerNorm(d_in) if row.layer_norm else nn.Identity()

    def initialise(self, generator: torch.Generator) -> None:
        """With `skip` the output is zero. Without, tokens attend to those like them, or to random ones.

        `self`: queries and keys are the inputs, so scaled that a token of unit norm has the logit `SELF_LOGIT` with
        itself: it outweighs a hundred tokens that are half as similar.
        """
        d_in = self.query.shape[0]
        for matrix in (self.query, self.key, self.value, self.output):
            matrix.normal_(0.0, d_in**-0.5, generator=generator)
        if self.row.skip:
            self.output.zero_()
        elif self.row.initial == "self":
            sharpness = math.sqrt(SELF_LOGIT * self.row.heads * math.sqrt(d_in / self.row.heads))
            identity = torch.eye(d_in)
            self.query.copy_(sharpness * identity)
            self.key.copy_(sharpness * identity)
            self.value.copy_(identity)
            self.output.copy_(identity)

    def forward(
        self, x: Float[Tensor, "batch seq d_in"], layout: Layout | None, products: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch seq d_in"]:
        assert layout is not None
        y = self.norm(x).masked_fill(~layout.keep.unsqueeze(-1), 0.0)
        query, key, value = (product(y, matrix, products) for matrix in (self.query, self.key, self.value))
        attended = product(attend(query, key, value, self.row.heads, layout), self.output, products)
        return x + attended if self.row.skip else attended


class DilatedConvolution(InputPart):
    """`x_t + sum_b strength_b sum_j tap_(b, j) x_(t - j dilation_b)`, each dimension by itself, within a document.

    Taps of all branches that reach back equally far are summed first: one pass over the inputs for each distance.
    """

    def __init__(self, row: ConvolutionRow, d_in: int) -> None:
        super().__init__()
        self.dilations = row.dilations
        self.kernel = row.kernel
        self.taps = nn.Parameter(torch.empty(len(row.dilations), row.kernel, d_in))
        self.strength = nn.Parameter(torch.empty(len(row.dilations)))

    def initialise(self, generator: torch.Generator) -> None:
        """Taps as torch draws those of a depth-wise convolution; branches of strength 0."""
        bound = self.kernel**-0.5
        self.taps.uniform_(-bound, bound, generator=generator)
        self.strength.zero_()

    def forward(
        self, x: Float[Tensor, "batch seq d_in"], layout: Layout | None, products: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch seq d_in"]:
        assert layout is not None
        result = x
        for lag, tap in self.by_lag().items():
            result = result + layout.earlier(x, lag) * tap
        return result

    def by_lag(self) -> dict[int, Float[Tensor, " d_in"]]:
        """By distance, the sum of the taps that reach so far back, times the strength of their branch."""
        sums: dict[int, Tensor] = {}
        for branch, tap in pairs(range(len(self.dilations)), range(self.kernel)):
            lag = tap * self.dilations[branch]
            weighted = self.strength[branch] * self.taps[branch, tap]
            sums[lag] = sums[lag] + weighted if lag in sums else weighted
        return sums


class ResidualBranch(InputPart):
    """`x + relu(x W_1 + b_1) W_2 + b_2`, a token at a time.

    A skip from the inputs to the output instead would reconstruct everything with dead latents.
    """

    def __init__(self, row: ResidualRow, d_in: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(d_in, row.hidden), nn.Linear(row.hidden, d_in)

    def initialise(self, generator: torch.Generator) -> None:
        """The second layer is zero."""
        self.inner.weight.normal_(0.0, (2 / self.inner.in_features) ** 0.5, generator=generator)
        for parameter in (self.inner.bias, self.outer.weight, self.outer.bias):
            parameter.zero_()

    def forward(
        self, x: Float[Tensor, "batch seq d_in"], layout: Layout | None, products: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch seq d_in"]:
        return x + affine(affine(x, self.inner, products).relu(), self.outer, products)


def input_parts(row: PartsRow, d_in: int, context: int) -> Iterator[tuple[str, InputPart]]:
    """The parts of a row that act on inputs, by name, in their order."""
    if row.position:
        yield "position", PositionEmbedding(row.position, d_in, context)
    if row.attention:
        yield "attention", TemporalAttention(row.attention, d_in)
    if row.convolution:
        yield "convolution", DilatedConvolution(row.convolution, d_in)
    if row.residual:
        yield "residual", ResidualBranch(row.residual, d_in)
