"""Sparsifiers: how an affine map of the inputs becomes codes of which few are active."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stages.sae.codes import Codes, DenseCodes, SparseCodes
from stages.sae.products import product, topk_linear
from stages.sae.variant import SparsifierRow


class Sparsifier(ABC):
    """Takes the encoder's weights, because a sparsifier that keeps few pre-activations need not differentiate all."""

    @abstractmethod
    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        dtype: torch.dtype,
    ) -> Codes:
        """Codes of `x @ weight + bias`, the product in `dtype`."""

    @abstractmethod
    def select(self, pre: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """Codes of given pre-activations: the definition that `encode` equals."""


@dataclass(frozen=True)
class ReLU(Sparsifier):
    """Positive pre-activations pass; sparsity comes from the L1 term of the objective."""

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        dtype: torch.dtype,
    ) -> Codes:
        pre = product(x.flatten(0, -2), weight, dtype).add_(bias)
        return DenseCodes(pre.relu_().view(*x.shape[:-1], -1))

    def select(self, pre: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        return pre.relu()


@dataclass(frozen=True)
class TopK(Sparsifier):
    """The k largest pre-activations of a token pass, where positive (Gao et al. 2024, arXiv 2406.04093, eq. 2)."""

    k: int
    """Latents a token may activate."""

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        weight: Float[Tensor, "d_in d_sae"],
        bias: Float[Tensor, " d_sae"],
        dtype: torch.dtype,
    ) -> Codes:
        values, selection = topk_linear(x.flatten(0, -2), weight, bias, self.k, dtype)
        return SparseCodes(values, selection, tuple(x.shape[:-1]))

    def select(self, pre: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        values, indices = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def make_sparsifier(row: SparsifierRow, k: int) -> Sparsifier:
    """The sparsifier of a row of the table, with the k of the profile."""
    return {"relu": ReLU(), "topk": TopK(k)}[row.kind]
