"""Parts behind the encoder: norms of its pre-activations, gates by position, leaky integration of codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.sae.architecture import GateRow, IntegratorRow, NormRow
from stages.sae.layout import Layout

EPSILON = 1e-5
"""Added to variances before their root is divided by."""
TINY = 1e-12
"""The same for the variance over a token's latents: a larger one would matter to short inputs."""
MOMENTUM = 0.01
"""Share of each batch in the running statistics, which replace those of the batch once trained."""


class Normed(NamedTuple):
    """Normalised pre-activations."""

    pre: Float[Tensor, "*tokens d_sae"]
    """What the encoder's bias is added to and the sparsifier sees."""
    scale: Float[Tensor, "*tokens 1"] | None
    """What codes are multiplied by; None for 1."""


class Norm(nn.Module, ABC):
    """Normalises `x @ W_enc`; the encoder's bias is added afterwards."""

    @abstractmethod
    def forward(self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None) -> Normed:
        """Normalise; `keep` names the tokens that count, None stands for all."""

    def calibrate(self, pre: Float[Tensor, "n d_sae"]) -> None:
        """Take up the statistics of the first batch's kept tokens."""

    def follow(self) -> None:
        """Take the last batch into the running statistics: once a batch, or each part of one."""


class BatchNorm(Norm):
    """A latent over the kept tokens of a batch; by running statistics once trained, so that it folds (`affine`)."""

    mean: Float[Tensor, " d_sae"]
    variance: Float[Tensor, " d_sae"]

    def __init__(self, row: NormRow, d_sae: int) -> None:
        super().__init__()
        self.row = row
        self.gain = nn.Parameter(torch.ones(d_sae))
        self.register_buffer("mean", torch.zeros(d_sae))
        self.register_buffer("variance", torch.ones(d_sae))
        self.seen: tuple[Tensor, Tensor] | None = None
        """Mean and variance of the last batch."""

    @torch.no_grad()
    def calibrate(self, pre: Float[Tensor, "n d_sae"]) -> None:
        self.mean.copy_(pre.mean(0))
        self.variance.copy_(pre.var(0, correction=0))
        if self.row.gain == "measured":
            self.gain.copy_((self.variance + EPSILON).sqrt())

    def forward(self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None) -> Normed:
        mean, variance = self.mean, self.variance
        if self.training:
            kept = pre.flatten(0, -2) if keep is None else pre[keep]
            mean, variance = kept.mean(0), kept.var(0, correction=0)
            self.seen = mean.detach(), variance.detach()
        return Normed((pre - mean) * (self.gain / (variance + EPSILON).sqrt()), None)

    @torch.no_grad()
    def follow(self) -> None:
        if self.seen is not None:
            for running, batch in zip((self.mean, self.variance), self.seen, strict=True):
                running.lerp_(batch, MOMENTUM)

    def affine(self) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
        """Factor and offset that the running statistics give a pre-activation."""
        factor = self.gain / (self.variance + EPSILON).sqrt()
        return factor, -self.mean * factor


class LayerNorm(Norm):
    """A token over its latents, times a gain; codes get the token's scale back."""

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_sae))

    def forward(self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None) -> Normed:
        variance, mean = torch.var_mean(pre, dim=-1, correction=0, keepdim=True)
        scale = (variance + TINY).sqrt()
        return Normed((pre - mean) / scale * self.gain, scale)


class PositionGate(nn.Module):
    """A factor on each code, the sigmoid of an affine map of a learned embedding of the position; equal at first."""

    def __init__(self, row: GateRow, d_sae: int, context: int) -> None:
        super().__init__()
        self.initial = row.bias
        self.table = nn.Parameter(torch.empty(context, row.dim))
        self.weight = nn.Parameter(torch.empty(row.dim, d_sae))
        self.bias = nn.Parameter(torch.empty(d_sae))

    def initialise(self, generator: torch.Generator) -> None:
        """Random embeddings that do not count yet."""
        self.table.normal_(0.0, 1.0, generator=generator)
        self.weight.zero_()
        self.bias.fill_(self.initial)

    def forward(self, layout: Layout) -> Float[Tensor, "seq d_sae"]:
        """The factors at each position."""
        return torch.sigmoid(self.table[layout.positions] @ self.weight + self.bias)


class Integrator(nn.Module):
    """`h_t = decay h_(t-1) + (1 - decay) a_t` within each document, a learned decay a latent.

    Luo, Espinosa Zarlenga and Jamnik, Persistent SAE (arXiv 2607.17117).
    """

    def __init__(self, row: IntegratorRow, d_sae: int) -> None:
        super().__init__()
        self.largest = row.largest
        self.logit = nn.Parameter(torch.zeros(d_sae))

    @property
    def decay(self) -> Float[Tensor, " d_sae"]:
        """What a latent keeps of its state from token to token: it halves in `log(0.5) / log(decay)` tokens."""
        return self.largest * torch.sigmoid(self.logit)

    def forward(self, events: Float[Tensor, "batch seq d_sae"], layout: Layout) -> Float[Tensor, "batch seq d_sae"]:
        events = events.masked_fill(~layout.keep.unsqueeze(-1), 0.0)
        return _Integrate.apply(events, self.decay, layout.reaches_back(1))


class _Integrate(torch.autograd.Function):
    """The recurrence, token after token; its gradient runs the same recurrence backwards."""

    @staticmethod
    def forward(ctx: Any, events: Tensor, decay: Tensor, carried: Tensor) -> Tensor:
        states = events * (1 - decay)
        for t in range(1, events.shape[1]):
            states[:, t].addcmul_(states[:, t - 1], carried[:, t, None] * decay)
        ctx.save_for_backward(events, decay, carried, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        events, decay, carried, states = ctx.saved_tensors
        totals = gradients[0].clone()
        for t in range(events.shape[1] - 1, 0, -1):
            totals[:, t - 1].addcmul_(totals[:, t], carried[:, t, None] * decay)
        before = torch.zeros_like(states)
        before[:, 1:] = states[:, :-1] * carried[:, 1:, None]
        return totals * (1 - decay), (totals * (before - events)).sum((0, 1)), None
