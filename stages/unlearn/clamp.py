"""Clamping: latents that are active, or were a moment ago, are set to a negative value."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.layout import Layout
from stages.sae.model import SAE


class Clamp(NamedTuple):
    """One intervention on the residual stream."""

    latents: tuple[int, ...]
    """Which."""
    multiplier: float
    """What they are set to is minus this, in the units of raw activations."""
    window: int = 1
    """They count as active at a token if they fired at one of so many tokens of the document, that one included."""


@torch.no_grad()
def clamped(
    resid: Float[Tensor, "batch seq d"],
    codes: Float[Tensor, "batch seq n"],
    fired: Bool[Tensor, "batch seq n"],
    segments: Int[Tensor, "batch seq"],
    sae: SAE,
    clamp: Clamp,
) -> Float[Tensor, "batch seq d"]:
    """The residual stream with the decoder rows of clamped latents added as often as their codes changed.

    `codes` and `fired` are of the clamped latents alone. `fired` says where there are events: codes that integrate or
    are predicted stay above 0 where nothing fires. What the SAE does not reconstruct stays, as in SAEBench. BOS and
    padding, where `segments` is negative, are neither changed nor remembered.
    """
    if not clamp.latents:
        return resid
    chosen = torch.tensor(clamp.latents, device=codes.device)
    active = recently(fired & (segments >= 0).unsqueeze(-1), segments, clamp.window)
    change = torch.where(active, -clamp.multiplier - codes, 0.0)
    return resid + (change @ sae.W_dec.index_select(0, chosen)).to(resid.dtype)


def recently(
    active: Bool[Tensor, "batch seq n"], segments: Int[Tensor, "batch seq"], window: int
) -> Bool[Tensor, "batch seq n"]:
    """Whether a latent was active at one of the last `window` tokens of a token's document, that token included."""
    found, layout = active.clone(), Layout(segments, 0)
    for lag in range(1, min(window, active.shape[1])):
        found[:, lag:] |= active[:, :-lag] & layout.reaches_back(lag)[:, lag:, None]
    return found
