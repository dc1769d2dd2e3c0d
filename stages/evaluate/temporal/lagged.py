"""Sums over pairs of tokens of one document, for every lag at once."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.evaluate.temporal.segments import Segments

FEW_LAGS = (1, 4, 16, 64)
"""At which is measured what has no number for every lag."""


class LaggedSums:
    """Running float64 sums over the pairs (t, t + lag) of a signal `h: [tokens, d]`, at index `lag`: `[context, d]`.

    The sum of products is the inverse cosine transform of the summed power spectra of the documents, each padded with
    zeros to about twice its length (Wiener-Khinchin), so that no end of a document meets its beginning. As documents
    are no longer than a row, transforms are products with a small matrix of waves: they skip the zeros and cost less
    than an FFT. Within a batch the arithmetic is float32: relative to `sum h^2` the sums are good to about 1e-6, so
    a signal whose mean far outweighs its spread should be centred first.
    """

    def __init__(
        self, context: int, d: int, device: torch.device, weights: Float[np.ndarray, "scales context"] | None = None
    ) -> None:
        """`weights` of the lags, 0 at lag 0, are those of the products that `add` returns."""

        def zeros() -> Tensor:
            return torch.zeros(context, d, dtype=torch.float64, device=device)

        self._by_after = zeros()
        self._by_before = zeros()
        self._squares_by_either = zeros()
        self._spectra: dict[int, Tensor] = {}
        self._weights = torch.as_tensor(np.empty((0, context)) if weights is None else weights, device=device)
        self._by_frequency: dict[int, Tensor] = {}

    def add(self, h: Float[Tensor, "n d"], segments: Segments) -> Float[Tensor, "runs scales d"]:
        """Count the kept tokens of one batch; by run, its sums of products weighted by lag."""
        self._by_after += segments.by_after(h)
        self._by_before += segments.by_before(h)
        squares = h.square()
        self._squares_by_either += segments.by_after(squares).add_(segments.by_before(squares))
        batch: dict[int, Tensor] = {}
        weighted = h.new_zeros(len(segments.spans), len(self._weights), h.shape[1])
        for run, (start, stop) in enumerate(segments.spans):
            if stop - start > 1:
                size = 2 ** math.ceil(math.log2(2 * (stop - start) - 1))
                spectrum = _waves(size, h.device)[:, : stop - start] @ h[start:stop]
                if len(self._weights):
                    torch.mm(self._of_frequencies(size), spectrum.square(), out=weighted[run])
                batch[size] = batch[size].addcmul_(spectrum, spectrum) if size in batch else spectrum.square_()
        for size, power in batch.items():
            total = power[: len(power) // 2].double() + power[len(power) // 2 :]
            self._spectra[size] = self._spectra[size] + total if size in self._spectra else total
        return weighted

    @property
    def heads(self) -> Float[Tensor, "context d"]:
        """Sum of h_t; at lag 0 over all tokens."""
        return _from_the_farthest(self._by_after)

    @property
    def tails(self) -> Float[Tensor, "context d"]:
        """Sum of h_{t+lag}."""
        return _from_the_farthest(self._by_before)

    @property
    def squares(self) -> Float[Tensor, "context d"]:
        """Sum of h_t^2 + h_{t+lag}^2."""
        return _from_the_farthest(self._squares_by_either)

    def _of_frequencies(self, size: int) -> Float[Tensor, "scales 2*frequencies"]:
        """What turns squares of waves into weighted sums of products."""
        if size not in self._by_frequency:
            lags = min(self._weights.shape[1], size // 2)
            found = self._weights[:, :lags] @ _inverse(size, self._weights.device)[:lags]
            self._by_frequency[size] = torch.cat([found, found], dim=1).float()
        return self._by_frequency[size]

    @property
    def products(self) -> Float[Tensor, "context d"]:
        """Sum of h_t h_{t+lag}; at lag 0 over all tokens."""
        products = torch.zeros_like(self._by_after)
        for size, power in self._spectra.items():
            lags = min(len(products), size // 2)
            products[:lags] += _inverse(size, power.device)[:lags] @ power
        products[0] = self.squares[0] / 2
        return products

    @property
    def differences(self) -> Float[Tensor, "context d"]:
        """Sum of (h_{t+lag} - h_t)^2."""
        return self.squares - 2 * self.products


def _from_the_farthest(by_distance: Float[Tensor, "context d"]) -> Float[Tensor, "context d"]:
    """By lag, the sum over the tokens at that distance or farther, which are those of its pairs."""
    return by_distance.flip(0).cumsum(0).flip(0)


@lru_cache(maxsize=16)
def _waves(size: int, device: torch.device) -> Float[Tensor, "2*frequencies time"]:
    """Cosines, then sines, of every frequency of a real transform of `size` points, at its first size / 2 points."""
    angles = _angles(size).to(device)
    return torch.cat([angles.cos(), angles.sin()]).float()


@lru_cache(maxsize=16)
def _inverse(size: int, device: torch.device) -> Float[Tensor, "lag frequencies"]:
    """What turns a power spectrum into sums of products, float64; inner frequencies stand for their negatives too."""
    angles = _angles(size).to(device)
    counts = torch.full((len(angles), 1), 2.0, dtype=torch.float64, device=device)
    counts[[0, -1]] = 1
    return (angles.cos() * counts / size).T.contiguous()


def _angles(size: int) -> Float[Tensor, "frequencies time"]:
    turns = torch.arange(size // 2 + 1)[:, None] * torch.arange(size // 2) % size
    return turns.double() * (2 * math.pi / size)
