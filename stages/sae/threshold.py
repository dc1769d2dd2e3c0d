"""Sparsifiers with a threshold: JumpReLU, which learns one a latent, and BatchTopK, which finds one for all."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.sae.architecture import ThresholdRow
from stages.sae.codes import Codes, DenseCodes, SparseCodes
from stages.sae.products import batch_topk_linear, largest_of_batch, product
from stages.sae.sparsifier import FusedSparsifier, Sparsifier

FOLLOWING = 0.01
"""Share of each batch's smallest code in BatchTopK's threshold for inference (SAELens's `topk_threshold_lr`)."""


class JumpReLU(Sparsifier):
    """Pre-activations above a learned threshold pass as they are (Rajamanoharan et al. 2024, arXiv 2407.14435, eq. 2).

    The threshold is the exponential of a parameter, so that Adam's steps are relative to it and it stays positive.
    Its gradient is that of the straight-through estimator (eq. 11), whose rectangle is `bandwidth` wide. Both are in
    the units of the pre-activations: a bandwidth far below their spread lets no gradient through, one far above lets
    through noise.
    """

    bandwidth: Float[Tensor, ""]

    def __init__(self, d_sae: int, row: ThresholdRow | None = None) -> None:
        """A row of the table in training; a saved SAE needs none, it takes thresholds from its file."""
        super().__init__()
        self.row = row
        self.log_threshold = nn.Parameter(torch.zeros(d_sae))
        self.register_buffer("bandwidth", torch.tensor(1.0))
        if row is not None and row.unit == "normalised":
            self._set(1.0)

    @property
    def threshold(self) -> Float[Tensor, " d_sae"]:
        """What a pre-activation has to exceed."""
        return self.log_threshold.exp()

    def calibrate(self, rms: float) -> None:
        if self.row is not None and self.row.unit == "pre_activation_rms":
            self._set(rms)

    def for_inference(self, d_sae: int, scale: float) -> Sparsifier:
        return _jump_relu(self.threshold * scale)

    @torch.no_grad()
    def _set(self, unit: float) -> None:
        assert self.row is not None
        self.log_threshold.fill_(self.row.initial * unit).log_()
        self.bandwidth.fill_(self.row.bandwidth * unit)

    def select(
        self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens d_sae"]:
        return _JumpReLU.apply(pre, self.threshold, self.bandwidth)

    def count(self, pre: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens"]:
        """Active latents of a token, differentiable with respect to the thresholds (eq. 12)."""
        return _Step.apply(pre, self.threshold, self.bandwidth)


class _JumpReLU(torch.autograd.Function):
    """`z H(z - threshold)`; the derivative by the threshold is `-threshold / bandwidth` within the rectangle."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold, bandwidth)
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold, bandwidth = ctx.saved_tensors
        near = gradients[0].masked_fill((pre - threshold).abs() >= bandwidth / 2, 0.0)
        by_threshold = -threshold / bandwidth * near.flatten(0, -2).sum(0)
        return gradients[0].masked_fill(pre <= threshold, 0.0), by_threshold, None


class _Step(torch.autograd.Function):
    """How many pre-activations exceed their threshold; the derivative by it is `-1 / bandwidth` in the rectangle."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold, bandwidth)
        return (pre > threshold).sum(-1).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre, threshold, bandwidth = ctx.saved_tensors
        near = ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype)
        return None, -(gradients[0].flatten() @ near.flatten(0, -2)) / bandwidth, None


class BatchTopK(FusedSparsifier):
    """The k n largest pre-activations of n tokens pass, where positive (Bussmann et al. 2024, arXiv 2412.06410, eq. 2).

    A token thereby gets as many latents as it needs; in training, one that does not count gets none. What a token gets
    must not depend on the others at inference: a trained SAE uses a threshold, the running mean of each batch's
    smallest code, and is saved as JumpReLU.
    """

    threshold: Float[Tensor, ""]

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        """Latents a token activates on average."""
        self.register_buffer("threshold", torch.tensor(-1.0))
        """For inference; negative before the first step."""
        self.seen: Float[Tensor, ""] | None = None
        """The smallest code of the last batch."""

    def select(
        self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens d_sae"]:
        if not self.training:
            return torch.where(pre > self.threshold.clamp(min=0.0), pre, 0.0)
        places, _ = largest_of_batch(pre.detach().clone(), self.k, keep)
        chosen = pre.flatten()[places]
        self._see(chosen)
        return torch.zeros_like(pre).flatten().scatter(0, places, chosen).view_as(pre)

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        products: torch.dtype,
        keep: Bool[Tensor, "*tokens"] | None = None,
    ) -> Codes:
        flat = x.flatten(0, -2)
        if not self.training:
            pre = product(flat, weight, products) + bias
            return DenseCodes(self.select(pre.view(*x.shape[:-1], -1)))
        kept = None if keep is None else keep.flatten()
        values, selection = batch_topk_linear(flat, weight, bias, self.k, kept, products)
        self._see(values)
        return SparseCodes(values, selection, tuple(x.shape[:-1]))

    def _see(self, chosen: Float[Tensor, " choices"]) -> None:
        self.seen = chosen.detach().min() if len(chosen) else None

    @torch.no_grad()
    def follow(self) -> None:
        if self.seen is not None:
            self.threshold.copy_(self.seen if self.threshold < 0 else self.threshold.lerp(self.seen, FOLLOWING))

    def for_inference(self, d_sae: int, scale: float) -> Sparsifier:
        """The JumpReLU of its threshold, the same for all latents."""
        return _jump_relu(self.threshold.clamp(min=0.0).expand(d_sae) * scale)

    def extra_repr(self) -> str:
        return f"k={self.k}"


@torch.no_grad()
def _jump_relu(threshold: Float[Tensor, " d_sae"]) -> JumpReLU:
    jump = JumpReLU(len(threshold))
    jump.log_threshold.copy_(threshold.log())
    return jump
