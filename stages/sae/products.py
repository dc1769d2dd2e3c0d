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
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def product(
    a: Float[Tensor, "*n m"], b: Float[Tensor, "m p"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*n p"]:
    """`a @ b` with both factors, and both factors of the backward pass, in `dtype`; the result is float32."""
    if dtype == torch.float32:
        return a @ b
    if a.ndim == 2:
        return _Product.apply(a, b, dtype)
    return _Product.apply(a.flatten(0, -2), b, dtype).view(*a.shape[:-1], -1)


def affine(x: Float[Tensor, "*n m"], layer: nn.Linear, dtype: torch.dtype = torch.float32) -> Float[Tensor, "*n p"]:
    """What the layer makes of `x`, its product in `dtype`."""
    return product(x, layer.weight.T, dtype) + layer.bias


class _Product(torch.autograd.Function):
    """A product of rounded factors.

    Left to autograd, gradients may come in the transposed layout, and every operation that meets one in the
    usual layout takes ten times as long: a fifth of the step of a ReLU SAE.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        a, b = a.to(dtype), b.to(dtype)
        ctx.save_for_backward(a, b)
        return (a @ b).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        gradient = gradients[0].to(a.dtype)
        by_a = (gradient @ b.T).to(torch.float32) if ctx.needs_input_grad[0] else None
        by_b = (a.T @ gradient).to(torch.float32) if ctx.needs_input_grad[1] else None
        return by_a, by_b, None


class Selection:
    """Which of `width` latents each of n tokens chose, seen from the tokens and from the latents.

    A list of choices, those of one token after those of the other; `values` of the methods are a number a choice.
    """

    def __init__(self, latents: Int[Tensor, " choices"], ends: Int[Tensor, " n"], width: int) -> None:
        """`ends[t]` is the number of choices of the tokens up to and with t."""
        self.latents = latents
        self.ends = ends
        self.width = width

    @classmethod
    def of_rows(cls, indices: Int[Tensor, "n k"], width: int) -> Selection:
        """The same number of latents for every token."""
        n, k = indices.shape
        return cls(indices.flatten(), torch.arange(k, (n + 1) * k, k, device=indices.device), width)

    @classmethod
    def of_places(cls, places: Int[Tensor, " choices"], n: int, width: int) -> Selection:
        """The latents at rising places of a flattened `[n, width]` tensor."""
        tokens = places // width
        selection = cls(places % width, torch.bincount(tokens, minlength=n).cumsum(0), width)
        selection.tokens = tokens
        return selection

    @cached_property
    def counts(self) -> Int[Tensor, " n"]:
        """How many latents each token chose."""
        return self.ends.diff(prepend=self.ends.new_zeros(1))

    @cached_property
    def tokens(self) -> Int[Tensor, " choices"]:
        """The token of each choice."""
        return torch.arange(len(self.ends), device=self.ends.device).repeat_interleave(self.counts)

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Choices ordered by latent, their tokens, where each latent's run starts.

        The sort is stable, so sums over a latent run over tokens in order: the same bits every time.
        """
        order = torch.argsort(self.latents, stable=True)
        counts = torch.bincount(self.latents, minlength=self.width)
        return order, self.tokens[order], counts.cumsum(0) - counts

    def gather(self, values: Float[Tensor, " choices"], rows: Float[Tensor, "width d"]) -> Float[Tensor, "n d"]:
        """For each token the sum of its latents' rows, weighted by its values: `codes @ rows`."""
        return F.embedding_bag(self.latents, rows, self.ends - self.counts, mode="sum", per_sample_weights=values)

    def scatter(self, values: Float[Tensor, " choices"], rows: Float[Tensor, "n d"]) -> Float[Tensor, "width d"]:
        """For each latent the sum of its tokens' rows, weighted by their values: `codes.T @ rows`."""
        order, tokens, offsets = self._by_latent
        return F.embedding_bag(tokens, rows, offsets, mode="sum", per_sample_weights=values[order])

    def by_latent(self, values: Float[Tensor, " choices"]) -> Float[Tensor, " width"]:
        """For each latent the sum of its values: `codes.sum(0)`."""
        return values.new_zeros(self.width).index_add_(0, self.latents, values)

    def by_token(self, values: Float[Tensor, " choices"]) -> Float[Tensor, " n"]:
        """For each token the sum of its values: `codes.sum(1)`."""
        return values.new_zeros(len(self.ends)).index_add(0, self.tokens, values)

    def dense(self, values: Float[Tensor, " choices"]) -> Float[Tensor, "n width"]:
        """The full tensor of codes."""
        places = self.tokens * self.width + self.latents
        return values.new_zeros(len(self.ends) * self.width).scatter(0, places, values).view(-1, self.width)

    def between(self, first: int, last: int) -> tuple[Bool[Tensor, " choices"], Selection]:
        """Which choices are of latents from `first` to before `last`, and the selection of these."""
        kept = (self.latents >= first) & (self.latents < last)
        counts = torch.bincount(self.tokens[kept], minlength=len(self.ends))
        return kept, Selection(self.latents[kept], counts.cumsum(0), self.width)

    def narrowed(self, width: int, wanted: Bool[Tensor, " n"]) -> tuple[Bool[Tensor, " choices"], Selection]:
        """Which choices are of the first `width` latents and of tokens that are wanted, and the selection of these."""
        kept = (self.latents < width) & wanted[self.tokens]
        counts = torch.bincount(self.tokens[kept], minlength=len(self.ends))[wanted]
        return kept, Selection(self.latents[kept], counts.cumsum(0), width)


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
        return None, x_gradient, selection.scatter(gradient, x).T, selection.by_latent(gradient), None


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
) -> tuple[Float[Tensor, " choices"], Selection]:
    """The k largest of `x @ weight + bias` of each token, after ReLU, and which they are."""
    with torch.no_grad():
        chosen, indices = largest_of_rows(product(x, weight, dtype).add_(bias), k)
    selection = Selection.of_rows(indices, weight.shape[1])
    return _SelectedLinear.apply(chosen.flatten(), x, weight, bias, selection), selection


GROUP = 8
"""Latents that `largest_of_rows` looks at as one: of 4, 8 and 16 the fastest at 2,304 and 2,560 latents."""


def largest_of_rows(pre: Float[Tensor, "n d_sae"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """`topk` of each row in any order, in 0.6 of its time.

    The k largest are in the k groups with the largest maxima, and these are found among 8 times fewer numbers.
    """
    n, width = pre.shape
    if width % GROUP or 2 * k * GROUP > width:
        chosen, indices = pre.topk(k, dim=-1, sorted=False)
        return chosen, indices
    per_row = width // GROUP  # group j holds columns j, j + per_row, ...
    groups = pre.view(n, GROUP, per_row).amax(1).topk(k, dim=-1, sorted=False).indices
    offsets = torch.arange(0, width, per_row, device=pre.device).unsqueeze(1)
    columns = (groups.unsqueeze(1) + offsets).flatten(1)
    chosen, places = pre.gather(1, columns).topk(k, dim=-1, sorted=False)
    return chosen, columns.gather(1, places)


def batch_topk_linear(
    x: Float[Tensor, "n d_in"],
    weight: Float[Tensor, "d_in d_sae"],
    bias: Float[Tensor, " d_sae"],
    k: int,
    keep: Bool[Tensor, " n"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, " choices"], Selection]:
    """The largest of `x @ weight + bias` of all kept tokens, k a token on average, where positive; which they are."""
    with torch.no_grad():
        places, chosen = largest_of_batch(product(x, weight, dtype).add_(bias), k, keep)
    selection = Selection.of_places(places, len(x), weight.shape[1])
    return _SelectedLinear.apply(chosen, x, weight, bias, selection), selection


def largest_of_batch(
    pre: Float[Tensor, "*tokens d_sae"], k: int, keep: Bool[Tensor, "*tokens"] | None
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """`largest` of kept tokens' values, k a token on average. Sets those of other tokens to zero."""
    if keep is not None:
        pre.masked_fill_(~keep.unsqueeze(-1), 0.0)
    return largest(pre.flatten(), k * (pre.shape[:-1].numel() if keep is None else int(keep.sum())))


SAMPLED = 64
"""One of so many values is looked at to guess where the largest ones begin."""


def largest(values: Float[Tensor, " n"], count: int) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Where the `count` largest values are, in order of place, and the values; fewer if fewer are positive.

    A full selection over a batch of pre-activations costs more than the encoder's product. A sample of them says
    about where the largest begin; what exceeds a bound below that is few, and holds them unless the sample
    misled: then all are looked at. Values equal to the smallest of the largest are all among them.
    """
    sample = values[::SAMPLED]
    wanted = min(len(sample), 2 * count // SAMPLED + 1)
    bound = sample.kthvalue(len(sample) - wanted + 1).values
    for lowest in (bound, torch.zeros_like(bound)):
        places = (values > lowest.clamp(min=0.0)).nonzero().squeeze(-1)
        found = values[places]
        if len(found) > count > 0:
            kept = found >= found.kthvalue(len(found) - count + 1).values
            return places[kept], found[kept]
    return (places, found) if count else (places[:0], found[:0])


def decode_selected(
    values: Float[Tensor, " choices"], selection: Selection, rows: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "n d_in"]:
    """`codes @ rows` for codes that are `values` at `selection` and zero elsewhere."""
    gathered = selection.gather(values, rows.detach())
    return _RowGradient.apply(gathered, rows, values.detach(), selection)
