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
    def between(self, first: int, last: int) -> Codes:
        """The same codes with zeros for latents before `first` and from `last` on."""

    @abstractmethod
    def narrowed(self, width: int, wanted: Bool[Tensor, "*tokens"]) -> Codes:
        """The first `width` latents of the tokens that are wanted: codes of shape `[wanted, width]`."""

    @abstractmethod
    def scaled(self, factors: Float[Tensor, "*tokens"]) -> Codes:
        """The codes, each token's times a factor."""

    @abstractmethod
    def squares(self) -> Float[Tensor, "*tokens"]:
        """The sum of each token's squared codes."""

    @abstractmethod
    def total(self) -> Float[Tensor, "*tokens"]:
        """The sum of each token's codes without their signs: their L1 norm."""

    @abstractmethod
    def count(self) -> Int[Tensor, "*tokens"]:
        """How many latents each token activates: its L0."""

    @abstractmethod
    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        """Which latents are active at one kept token or more."""

    @abstractmethod
    def firings(self, keep: Bool[Tensor, "*tokens"]) -> Int[Tensor, " d_sae"]:
        """At how many kept tokens each latent is active."""


@dataclass(frozen=True)
class DenseCodes(Codes):
    """Codes of which many may be active."""

    tensor: Float[Tensor, "*tokens d_sae"]
    """One number a latent and token, never negative."""

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        return self.tensor

    def decode(self, rows: Float[Tensor, "d_sae d_in"], dtype: torch.dtype) -> Float[Tensor, "*tokens d_in"]:
        return product(self.tensor, rows, dtype)

    def between(self, first: int, last: int) -> Codes:
        latents = torch.arange(self.tensor.shape[-1], device=self.tensor.device)
        return DenseCodes(self.tensor * ((latents >= first) & (latents < last)))

    def narrowed(self, width: int, wanted: Bool[Tensor, "*tokens"]) -> Codes:
        return DenseCodes(self.tensor[..., :width][wanted])

    def scaled(self, factors: Float[Tensor, "*tokens"]) -> Codes:
        return DenseCodes(self.tensor * factors.unsqueeze(-1))

    def squares(self) -> Float[Tensor, "*tokens"]:
        return self.tensor.square().sum(-1)

    def total(self) -> Float[Tensor, "*tokens"]:
        return self.tensor.sum(-1)

    def count(self) -> Int[Tensor, "*tokens"]:
        return torch.count_nonzero(self.tensor, dim=-1)

    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        # A product with 0 and 1 sums the non-negative codes of kept tokens, without a copy of the codes.
        return keep.flatten().to(self.tensor.dtype) @ self.tensor.detach().flatten(0, -2) > 0

    def firings(self, keep: Bool[Tensor, "*tokens"]) -> Int[Tensor, " d_sae"]:
        return (self.tensor[keep] > 0).sum(0)


@dataclass(frozen=True)
class SignedCodes(DenseCodes):
    """Codes that may be negative, and are active then too."""

    def total(self) -> Float[Tensor, "*tokens"]:
        return self.tensor.abs().sum(-1)

    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        return self.firings(keep) > 0

    def firings(self, keep: Bool[Tensor, "*tokens"]) -> Int[Tensor, " d_sae"]:
        return torch.count_nonzero(self.tensor[keep], dim=0)


@dataclass(frozen=True)
class SparseCodes(Codes):
    """Codes of which few a token are active."""

    values: Float[Tensor, " choices"]
    """The codes of the chosen latents, never negative."""
    selection: Selection
    """Which latents were chosen."""
    shape: tuple[int, ...]
    """The leading shape of the tokens."""

    def dense(self) -> Float[Tensor, "*tokens d_sae"]:
        return self.selection.dense(self.values).view(*self.shape, -1)

    def decode(self, rows: Float[Tensor, "d_sae d_in"], dtype: torch.dtype) -> Float[Tensor, "*tokens d_in"]:
        return decode_selected(self.values, self.selection, rows).view(*self.shape, -1)

    def between(self, first: int, last: int) -> Codes:
        kept, selection = self.selection.between(first, last)
        return SparseCodes(self.values[kept], selection, self.shape)

    def narrowed(self, width: int, wanted: Bool[Tensor, "*tokens"]) -> Codes:
        kept, selection = self.selection.narrowed(width, wanted.flatten())
        return SparseCodes(self.values[kept], selection, (len(selection.ends),))

    def scaled(self, factors: Float[Tensor, "*tokens"]) -> Codes:
        return SparseCodes(self.values * factors.flatten()[self.selection.tokens], self.selection, self.shape)

    def squares(self) -> Float[Tensor, "*tokens"]:
        return self.selection.by_token(self.values.square()).view(self.shape)

    def total(self) -> Float[Tensor, "*tokens"]:
        return self.selection.by_token(self.values).view(self.shape)

    def count(self) -> Int[Tensor, "*tokens"]:
        return self.selection.by_token((self.values > 0).to(torch.int64)).view(self.shape)

    def firings(self, keep: Bool[Tensor, "*tokens"]) -> Int[Tensor, " d_sae"]:
        active = (self.values > 0) & keep.flatten()[self.selection.tokens]
        return self.selection.by_latent(active.to(torch.int64))

    def fired(self, keep: Bool[Tensor, "*tokens"]) -> Bool[Tensor, " d_sae"]:
        return self.firings(keep) > 0


@dataclass(frozen=True)
class DerivedCodes(DenseCodes):
    """Codes that are dense by construction, of events that are few."""

    source: Codes
    """The events."""

    @property
    def events(self) -> Codes:
        return self.source
