"""Codes of a batch of tokens, as a full tensor or as the few active latents of each token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.products import Selection, decode_selected, product


class Codes(ABC):
    """The codes of tokens in any leading shape, written `*tokens`."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        """The full tensor."""

    @abstractmethod
    def decode(self, rows: Float[Tensor, "d_sae d_in"], dtype: torch.dtype) -> Float[Tensor, "*tokens d_in"]:
        """`codes @ rows`; dense products run in `dtype`."""

    @property
    def events(self) -> Codes:
        """The sparse codes from which dense ones were made, else these themselves: what L0 and firing count."""
        return self

    @abstractmethod
    def total(self) -> Float[Tensor, "*tokens"]:
        """The sum of each token's codes, which are never negative: their L1 norm."""

    @abstractmethod
    def count(self) -> Int[Tensor, "*tokens"]:
        """How many latents each token activates: its L0."""

    @abstractmethod
    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        """Which latents are active at one kept token or more."""

    def firings(self, keep: Bool[Tensor, "*tokens"]) -> Int[Tensor, " d_sae"]:
        """At how many kept tokens each latent is active."""
        return (self.dense()[keep] > 0).sum(0)


@dataclass(frozen=True)
class DenseCodes(Codes):
    """Codes of which many may be active."""

    tensor: Float[Tensor, "*tokens d_sae"]
    """One number a latent and token, never negative."""

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        return self.tensor

    def decode(self, rows: Float[Tensor, "d_sae d_in"], dtype: torch.dtype) -> Float[Tensor, "*tokens d_in"]:
        return product(self.tensor.flatten(0, -2), rows, dtype).view(*self.tensor.shape[:-1], -1)

    def total(self) -> Float[Tensor, "*tokens"]:
        return self.tensor.sum(-1)

    def count(self) -> Int[Tensor, "*tokens"]:
        return torch.count_nonzero(self.tensor, dim=-1)

    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        # A product with 0 and 1 sums the non-negative codes of kept tokens, without a copy of the codes.
        return keep.flatten().to(self.tensor.dtype) @ self.tensor.detach().flatten(0, -2) > 0


@dataclass(frozen=True)
class SparseCodes(Codes):
    """Codes of which at most k a token are active."""

    values: Float[Tensor, "n k"]
    """The codes of the chosen latents, never negative."""
    selection: Selection
    """Which latents were chosen."""
    shape: tuple[int, ...]
    """The leading shape of the tokens, n in all."""

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        empty = self.values.new_zeros(len(self.values), self.selection.width)
        return empty.scatter(-1, self.selection.indices, self.values).view(*self.shape, -1)

    def decode(self, rows: Float[Tensor, "d_sae d_in"], dtype: torch.dtype) -> Float[Tensor, "*tokens d_in"]:
        return decode_selected(self.values, self.selection, rows).view(*self.shape, -1)

    def total(self) -> Float[Tensor, "*tokens"]:
        return self.values.sum(-1).view(self.shape)

    def count(self) -> Int[Tensor, "*tokens"]:
        return torch.count_nonzero(self.values, dim=-1).view(self.shape)

    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        active = (self.values > 0) & keep.reshape(-1, 1)
        fired = active.new_zeros(self.selection.width)
        fired[self.selection.indices[active]] = True
        return fired


@dataclass(frozen=True)
class DerivedCodes(DenseCodes):
    """Codes that are dense by construction, of events that are few."""

    source: Codes
    """The events."""

    @property
    def events(self) -> Codes:
        return self.source
