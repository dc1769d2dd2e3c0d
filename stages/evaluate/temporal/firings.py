"""Where the latents of a batch are active."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.products import Selection


class Firings:
    """The firings of a batch of `n` kept tokens, of which few latents are active."""

    def __init__(self, active: Bool[Tensor, "n d"]) -> None:
        self._active = active
        self.chosen = Selection.of_places(active.flatten().nonzero()[:, 0], *active.shape)
        """Those of one token after those of another."""

    @cached_property
    def dense(self) -> Float[Tensor, "n d"]:
        """The firings as 0 and 1."""
        return self._active.float()

    def of(self, columns: Int[Tensor, " some"]) -> Firings:
        """Those of some latents, numbered by their places among these."""
        return Firings(self._active.index_select(1, columns))

    @property
    def size(self) -> Int[Tensor, " n"]:
        """Active latents of each token."""
        return self.chosen.counts

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, " firings"], Int[Tensor, " firings"]]:
        """Latents and tokens of all firings, those of one latent after those of another and in order of tokens."""
        n = len(self.chosen.ends)
        places = (self.chosen.latents * n + self.chosen.tokens).sort().values
        return places // n, places % n

    @cached_property
    def repeated(self) -> tuple[Int[Tensor, " repeats"], Int[Tensor, " repeats"]]:
        """Latents and tokens of the firings that the next kept token repeats, of whatever document it is."""
        latents, tokens = self.by_latent
        same = (latents[1:] == latents[:-1]) & (tokens[1:] - tokens[:-1] == 1)
        return latents[:-1][same], tokens[:-1][same]

    @cached_property
    def shared(self) -> Int[Tensor, " n-1"]:
        """Latents that are active at a token and the next one."""
        return torch.bincount(self.repeated[1], minlength=len(self.chosen.ends))[:-1]

    def by_run(self, run: Int[Tensor, " n"], runs: int) -> Int[Tensor, "runs d"]:
        """Firings of each latent in each run, given the run of every token."""
        d = self.chosen.width
        places = run[self.chosen.tokens] * d + self.chosen.latents
        return torch.bincount(places, minlength=runs * d).view(runs, d)
