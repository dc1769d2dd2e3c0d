"""Temporal terms of the objective: consistency of a document's codes over ranges of lags, all lags at once.

For one scale the mean of `|h_s - h_t|^2` over its pairs is `tr(H' L H) / n_pairs`, with H the codes of a window and
L the graph Laplacian of its pairs. One batched product of a `[seq, seq]` matrix with H gives the gradient of all
scales, and the window's Gram matrix gives their values: no difference of two code tensors is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.objective_row import ScaleRow, TemporalRow
from stages.train.quadratic import Quadratic, Quadratics, gradient_of, lags_of, laplacian, memory_of
from stages.train.randomness import generator_at
from stages.train.schedule import Ramp
from store.pairs import same_document
from store.problem import Problem


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
    factors: dict[str, Float[Tensor, ""]]
    """What adaptive weights multiply each scale by; empty without them."""

    def gradient(self, codes: Float[Tensor, "batch seq d_sae"], scale: str) -> Float[Tensor, "batch seq d_sae"]:
        """The gradient of a scale's terms with respect to the codes."""
        parts = [q for q in self.quadratics if q.scale == scale]
        factors = [self.factors.get(scale, 1.0)] * len(parts)
        return gradient_of(codes.detach() * self.latents.weights, self.latents.weights, parts, factors)

    def loss(self, scale: str) -> Float[Tensor, ""]:
        """The sum of a scale's weighted terms."""
        return torch.stack([self.terms[q.name] for q in self.quadratics if q.scale == scale]).sum()

    def pairs(self, scale: str) -> int:
        """Pairs of a scale in the batch."""
        return next(q.count for q in self.quadratics if (q.kind, q.scale) == ("temporal", scale))


class TemporalTerms:
    """The temporal part of a row of the table."""

    def __init__(self, row: TemporalRow, seed: int, steps: int) -> None:
        self.row = row
        self.seed = seed
        self.steps = steps
        self.ramp = Ramp(row.ramp)
        self.scales = [scale for scale in row.scales if scale.weight]
        """Scales that weigh something: a control has none."""
        self.means = torch.zeros(1 + len(self.scales))
        """Running means of the reconstruction loss and of each scale's weighted loss, for adaptive weights."""

    @property
    def names(self) -> list[str]:
        """Names of all terms."""
        kinds = ["temporal", "buffer"] if self.row.buffers else ["temporal"]
        return [f"{kind}_{scale.name}" for kind in kinds for scale in self.scales]

    def strength_at(self, step: int) -> float:
        """The factor of all temporal weights at a step: 0 during the delay, then the ramp, then the decay."""
        if step < self.row.delay:
            return 0.0
        return self.ramp.at(step - self.row.delay) * self._decayed(step - self.row.delay - self.row.ramp)

    def _decayed(self, after: int) -> float:
        """What is left of the weights so many steps after the ramp."""
        decay = self.row.decay
        if decay is None or after <= 0:
            return 1.0
        half_life = decay.half_life * (self.steps - self.row.delay - self.row.ramp)
        return max(decay.floor, 0.5 ** (after / half_life))

    def __call__(
        self,
        codes: Float[Tensor, "batch seq d_sae"],
        segments: Int[Tensor, "batch seq"],
        step: int,
        reconstruction: Float[Tensor, ""],
        products: torch.dtype | None = None,
    ) -> Consistency | None:
        """The terms at a step, counted from 0; None while they have no weight. `reconstruction` is the loss that
        adaptive weights compare with; `products` is the dtype of the factors of products, None for that of the codes.

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
            quadratics += self._memories(codes, within, step, strength, latents)
        values = Quadratics.apply(codes, latents.weights, quadratics, products or codes.dtype)
        terms = dict(zip((q.name for q in quadratics), values, strict=True))
        factors = self._factors(quadratics, terms, reconstruction.detach()) if self.row.adaptive else {}
        terms = {q.name: terms[q.name] * factors[q.scale] if factors else terms[q.name] for q in quadratics}
        return Consistency(terms, quadratics, latents, factors)

    @torch.no_grad()
    def _factors(
        self, quadratics: Sequence[Quadratic], terms: Mapping[str, Tensor], reconstruction: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """By scale, the factor that keeps its loss within the adaptive limit, after the running means took it in."""
        assert self.row.adaptive is not None
        order = [scale.name for scale in self.scales]
        found = torch.zeros_like(self.means, device=reconstruction.device)
        found[0] = reconstruction
        for q in quadratics:
            found[1 + order.index(q.scale)] += terms[q.name]
        means = self.means.to(found)
        self.means = torch.where(means > 0, means.lerp(found, self.row.adaptive.following), found)
        allowed = self.row.adaptive.limit * self.means[0]
        factors = (allowed / self.means[1:].clamp(min=torch.finfo(found.dtype).tiny)).clamp(max=1.0)
        return dict(zip(order, factors, strict=True))

    def metrics(
        self,
        consistency: Consistency | None,
        codes: Float[Tensor, "batch seq d_sae"],
        segments: Int[Tensor, "batch seq"],
        reconstruction: Float[Tensor, ""],
        reconstruction_gradient: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, ""]]:
        """What the terms weigh beside the reconstruction loss, and the state of the buffers, scale by scale; zeros
        before they begin.

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
        if self.row.buffers is not None:
            found |= self._of_buffers(consistency, codes, segments)
        return found

    def _of_buffers(
        self,
        consistency: Consistency | None,
        codes: Float[Tensor, "batch seq d_sae"],
        segments: Int[Tensor, "batch seq"],
    ) -> dict[str, Float[Tensor, ""]]:
        """How often buffers were reset, and of each scale's the tokens that have a memory, its size in root mean
        squares of a code, and how much of its random beginning is left in it."""
        before = F.pad(segments[:, :-1], (1, 0), value=-1)
        resets = ((segments >= 0) & (segments != before)).sum().to(codes.dtype)
        zero = torch.zeros_like(resets)
        found = {"buffer/resets": resets if consistency else zero}
        for scale in self.scales:
            numbers = {"tokens": zero, "rms": zero, "initial": zero}
            if consistency is not None:
                (q,) = (q for q in consistency.quadratics if (q.kind, q.scale) == ("buffer", scale.name))
                assert q.offset is not None
                mean_square = q.memory(codes).square().sum() / (q.count * codes.shape[-1])
                numbers["tokens"] = torch.full_like(zero, q.count)
                numbers["rms"] = mean_square.sqrt() / consistency.latents.rms
                numbers["initial"] = q.offset.sum() / q.count
            found |= {f"buffer/{name}_{scale.name}": value for name, value in numbers.items()}
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
        divisor = count if self.row.over_lags == "mean" else max(1, int(within.diagonal(dim1=1, dim2=2).sum()))
        factor = strength * scale.weight / divisor
        return Quadratic("temporal", scale.name, laplacian(pairs.to(dtype)), factor, count)

    def _memories(
        self,
        codes: Float[Tensor, "batch seq d_sae"],
        within: Bool[Tensor, "batch seq seq"],
        step: int,
        strength: float,
        latents: LatentWeights,
    ) -> list[Quadratic]:
        """The buffer terms. A buffer is reset at every document, to random values that the documents of a step share:
        nothing outlives a batch."""
        row = self.row.buffers
        assert row is not None
        mixing = row.mixing if self.ramp.at(step - self.row.delay) < 1 else row.mixing_after
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
