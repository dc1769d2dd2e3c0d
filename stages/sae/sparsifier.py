"""Sparsifiers: how an affine map of the inputs becomes codes of which few are active."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.sae.codes import Codes, DenseCodes, SparseCodes
from stages.sae.products import product, topk_linear


class Sparsifier(nn.Module, ABC):
    """Makes codes of pre-activations."""

    @abstractmethod
    def select(
        self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens d_sae"]:
        """Codes of pre-activations: the definition. `keep` names the tokens that count; None stands for all."""

    def calibrate(self, rms: float) -> None:
        """Take up the root mean square of the pre-activations of the first batch."""

    def follow(self) -> None:
        """Take the last batch into what inference uses instead of a batch: once a batch, or each part of one."""

    def for_inference(self, d_sae: int, scale: float) -> Sparsifier:
        """What it does, once trained, to single tokens whose pre-activations are `scale` times as large."""
        return self


class FusedSparsifier(Sparsifier):
    """Takes the encoder's inputs and weights: what keeps few pre-activations need not store or differentiate all."""

    @abstractmethod
    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        products: torch.dtype,
        keep: Bool[Tensor, "*tokens"] | None = None,
    ) -> Codes:
        """`select` of `x @ weight + bias`, the product in the dtype `products`."""


class ReLU(FusedSparsifier):
    """Positive pre-activations pass; sparsity comes from the L1 term of the objective."""

    def select(
        self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens d_sae"]:
        return pre.relu()

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        products: torch.dtype,
        keep: Bool[Tensor, "*tokens"] | None = None,
    ) -> Codes:
        pre = product(x.flatten(0, -2), weight, products).add_(bias)
        return DenseCodes(pre.relu_().view(*x.shape[:-1], -1))


class TopK(FusedSparsifier):
    """The k largest pre-activations of a token pass, where positive (Gao et al. 2024, arXiv 2406.04093, eq. 2)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        """Latents a token may activate."""

    def select(
        self, pre: Float[Tensor, "*tokens d_sae"], keep: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens d_sae"]:
        values, indices = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        products: torch.dtype,
        keep: Bool[Tensor, "*tokens"] | None = None,
    ) -> Codes:
        values, selection = topk_linear(x.flatten(0, -2), weight, bias, self.k, products)
        return SparseCodes(values, selection, tuple(x.shape[:-1]))

    def extra_repr(self) -> str:
        return f"k={self.k}"
