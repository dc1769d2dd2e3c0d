"""Temporal terms of the objective: consistency of a document's codes over ranges of lags, all lags at once.

For one scale the mean of `|h_s - h_t|^2` over its pairs is `tr(H' L H) / n_pairs`, with H the codes of a window and
L the graph Laplacian of its pairs. One batched product of a `[seq, seq]` matrix with H gives the gradient of all
scales, and the window's Gram matrix gives their values: no difference of two code tensors is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.variant import ScaleRow, TemporalRow
from stages.train.randomness import generator_at
from stages.train.schedule import Ramp
from store.problem import Problem


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


class LatentWeights(NamedTuple):
    """How much each latent counts in a batch."""

    weights: Float[Tensor, " d_sae"]
    """Constants as far as gradients go."""
    counted: Float[Tensor, ""]
    """Share of latents above the variance threshold."""
    rms: Float[Tensor, ""]
    """Root mean square of a code."""


class Consistency(NamedTuple):
    """The temporal terms of a batch."""

    terms: dict[str, Float[Tensor, ""]]
    """Weighted losses by name: `temporal_<scale>` and `buffer_<scale>`."""
    quadratics: Sequence[Quadratic]
    """Where they come from."""
    latents: LatentWeights
    """How latents were weighted."""

    def gradient(self, codes: Float[Tensor, "batch seq d_sae"], scale: str) -> Float[Tensor, "batch seq d_sae"]:
        """The gradient of a scale's terms with respect to the codes."""
        parts = [q for q in self.quadratics if q.scale == scale]
        return _gradient(codes.detach() * self.latents.weights, self.latents.weights, parts, [1.0] * len(parts))

    def loss(self, scale: str) -> Float[Tensor, ""]:
        """The sum of a scale's weighted terms."""
        return torch.stack([self.terms[q.name] for q in self.quadratics if q.scale == scale]).sum()

    def pairs(self, scale: str) -> int:
        """Pairs of a scale in the batch."""
        return next(q.count for q in self.quadratics if (q.kind, q.scale) == ("temporal", scale))


class TemporalTerms:
    """The temporal part of a row of the table."""

    def __init__(self, row: TemporalRow, seed: int) -> None:
        self.row = row
        self.seed = seed
        self.ramp = Ramp(row.ramp)
        self.scales = [scale for scale in row.scales if scale.weight]
        """Scales that weigh something: a control has none."""

    @property
    def names(self) -> list[str]:
        """Names of all terms."""
        kinds = ["temporal", "buffer"] if self.row.buffers else ["temporal"]
        return [f"{kind}_{scale.name}" for kind in kinds for scale in self.scales]

    def strength_at(self, step: int) -> float:
        """The factor of all temporal weights at a step: 0 during the delay, then the ramp."""
        return self.ramp.at(step - self.row.delay) if step >= self.row.delay else 0.0

    def __call__(
        self, codes: Float[Tensor, "batch seq d_sae"], segments: Int[Tensor, "batch seq"], step: int
    ) -> Consistency | None:
        """The terms at a step, counted from 0; None while they have no weight.

        Raises:
            Problem: a scale with weight has no pair in the batch.
        """
        strength = self.strength_at(step)
        if not strength or not self.scales:
            return None
        latents = latent_weights(codes.detach(), segments >= 0, self.row)
        within = same_document(segments)
        quadratics = [self._pairs(scale, within, strength, codes.dtype) for scale in self.scales]
        if self.row.buffers is not None:
            quadratics += self._memories(codes, within, strength, step, latents)
        values = _Consistency.apply(codes, latents.weights, quadratics)
        return Consistency(dict(zip((q.name for q in quadratics), values, strict=True)), quadratics, latents)

    def metrics(
        self,
        consistency: Consistency | None,
        codes: Float[Tensor, "batch seq d_sae"],
        reconstruction: Float[Tensor, ""],
        reconstruction_gradient: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, ""]]:
        """What the terms weigh beside the reconstruction loss, scale by scale; zeros before they begin.

        `reconstruction_gradient` is the norm of that loss's gradient with respect to the codes.
        """
        zero = torch.zeros_like(reconstruction)
        found = {"temporal/counted_latents": consistency.latents.counted if consistency else zero}
        for scale in (scale.name for scale in self.scales):
            ratio = consistency.loss(scale) / reconstruction if consistency else zero
            pull = consistency.gradient(codes, scale).norm() if consistency else zero
            found[f"temporal/ratio_{scale}"] = ratio
            found[f"temporal/gradient_{scale}"] = pull / reconstruction_gradient
            found[f"temporal/pairs_{scale}"] = torch.full_like(zero, consistency.pairs(scale) if consistency else 0)
        return found

    def _pairs(
        self, scale: ScaleRow, within: Bool[Tensor, "batch seq seq"], strength: float, dtype: torch.dtype
    ) -> Quadratic:
        pairs = within & (lags_of(within).abs() >= scale.lags[0]) & (lags_of(within).abs() <= scale.lags[1])
        count = int(pairs.sum()) // 2
        if count == 0:
            raise Problem(
                f"The temporal term {scale.name!r} has weight but saw no pairs in a batch.",
                expected=f"two tokens of one document {scale.lags[0]} to {scale.lags[1]} apart",
                found=f"{within.shape[0]} windows of {within.shape[1]} tokens without such a pair",
                do="harvest longer documents or a longer context, or lower the scale's smallest lag",
            )
        factor = strength * scale.weight / count
        return Quadratic("temporal", scale.name, laplacian(pairs.to(dtype)), factor, count)

    def _memories(
        self,
        codes: Float[Tensor, "batch seq d_sae"],
        within: Bool[Tensor, "batch seq seq"],
        strength: float,
        step: int,
        latents: LatentWeights,
    ) -> list[Quadratic]:
        """The buffer terms. A buffer is reset at every document to new random values, so nothing outlives a batch."""
        row = self.row.buffers
        assert row is not None
        mixing = row.mixing if strength < 1 else row.mixing_after
        generator = generator_at(self.seed, step, "buffers")
        found = []
        for scale in self.scales:
            memory, left = memory_of(within, scale.lags[0], mixing, codes.dtype)
            counted = left < 1
            count = max(1, int(counted.sum()))
            operator = torch.diag_embed(counted.to(codes.dtype)) - memory
            initial = torch.randn(codes.shape[-1], generator=generator).to(codes) * (row.sigma * latents.rms)
            offset = left * counted
            factor = strength * scale.weight / count
            found.append(Quadratic("buffer", scale.name, operator, factor, count, offset, initial))
        return found


def same_document(segments: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq seq"]:
    """Which positions of a window share a document."""
    return (segments[:, :, None] == segments[:, None]) & (segments >= 0)[:, :, None]


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


def latent_weights(
    codes: Float[Tensor, "batch seq d_sae"], keep: Bool[Tensor, "batch seq"], row: TemporalRow
) -> LatentWeights:
    """Weights of latents from the variance of their codes over the kept tokens of the batch.

    Weights by variance keep the size of the whole: `sum_i w_i var_i = sum_i var_i`. With a mean of 1 instead they would
    multiply it by E[var^2] / E[var]^2, 27 in a trained ReLU SAE of the embedded Gemma, and what they train is a
    dictionary of equal variances. Nor are they divided by the codes' mean squared norm: that pulls the harder the
    smaller the codes become (together: norm 0.21 to 0.08, L0 272 to 354), while weights relative to the
    reconstruction loss mean the same in all units.
    """
    flat, kept = codes.flatten(0, -2), keep.flatten().to(codes.dtype)
    tiny = torch.finfo(codes.dtype).tiny
    n = kept.sum().clamp(min=1)
    mean = kept @ flat / n
    square = kept @ flat.square() / n
    variance = square - mean.square()
    unit = variance.mean() if row.threshold_unit == "mean_variance" else 1.0
    counted = (variance >= row.variance_threshold * unit) & (variance > 0)
    share = variance * counted
    match row.latent_weights:
        case "equal":
            weights = counted.to(codes.dtype)
        case "variance":
            weights = share * (share.sum() / (share @ share).clamp(min=tiny))
        case "variance_share":
            weights = share / variance.sum().clamp(min=tiny)
    return LatentWeights(weights, counted.to(codes.dtype).mean(), square.mean().sqrt())


class _Consistency(torch.autograd.Function):
    """Values of quadratics from the Gram matrix; their gradients, whatever their number, from one batched product."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, weights: Tensor, quadratics: Sequence[Quadratic]) -> tuple[Tensor, ...]:
        weighted = codes * weights
        gram = torch.bmm(weighted, codes.transpose(1, 2))
        ctx.save_for_backward(weighted, weights)
        ctx.quadratics = quadratics
        return tuple(q.factor * _value(q, gram, weighted, weights) for q in quadratics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weighted, weights = ctx.saved_tensors
        return _gradient(weighted, weights, ctx.quadratics, gradients), None, None


def _value(q: Quadratic, gram: Float[Tensor, "batch seq seq"], weighted: Tensor, weights: Tensor) -> Float[Tensor, ""]:
    """A quadratic's value but for its factor, from the Gram matrix of codes under the weights of latents."""
    if q.offset is None or q.initial is None:
        return (q.operator * gram).sum()
    moved = torch.bmm(q.operator, gram)
    projected = torch.bmm(q.operator, (weighted @ q.initial).unsqueeze(-1)).squeeze(-1)
    square = q.offset.square().sum() * (weights * q.initial.square()).sum()
    return (moved * q.operator).sum() - 2 * (q.offset * projected).sum() + square


def _gradient(
    weighted: Float[Tensor, "batch seq d_sae"],
    weights: Float[Tensor, " d_sae"],
    quadratics: Sequence[Quadratic],
    gradients: Sequence[Tensor | float],
) -> Float[Tensor, "batch seq d_sae"]:
    """`sum_q gradient_q * 2 factor_q (operator_q H - offset_q initial_q)`, columns weighted."""
    factors = [2 * q.factor * gradient for q, gradient in zip(quadratics, gradients, strict=True)]
    operator = torch.zeros_like(quadratics[0].operator)
    for factor, q in zip(factors, quadratics, strict=True):
        operator += factor * q.operator
    result = torch.bmm(operator, weighted)
    for factor, q in zip(factors, quadratics, strict=True):
        if q.offset is not None and q.initial is not None:
            result.flatten(0, -2).addr_(q.offset.flatten() * factor, q.initial * weights, alpha=-1)
    return result
