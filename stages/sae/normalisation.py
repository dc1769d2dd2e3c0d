"""The units in which SAEs are trained: centred, with a mean squared norm of 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """`x' = (x - mean) / scale` with `scale = sqrt(E||x - mean||^2)`, so that `E||x'||^2 = 1`.

    The mean and the expectation are those of the kept tokens of a store's train split.
    """

    mean: Float[Tensor, " d_in"]
    """float64, in units of raw activations."""
    scale: float
    """Root of the mean squared distance from the mean, in units of raw activations."""

    def apply(
        self, x: Float[Tensor, "batch seq d_in"], keep: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq d_in"]:
        """Raw activations in normalised units (float32), zero at positions that are not kept.

        What stands at BOS and padding, however large or even not finite, can thus reach nothing.
        """
        centred = x.to(torch.float32, copy=True).sub_(self.mean.to(x.device, torch.float32))
        return centred.mul_(1 / self.scale).masked_fill_(~keep.unsqueeze(-1), 0.0)
