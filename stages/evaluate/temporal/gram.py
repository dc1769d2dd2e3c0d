"""Products over tokens of every column of a signal with every column of another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stages.sae.products import Selection

LIMIT = 3072
"""Columns whose products are formed, those that fire most: beyond, the square of the width would decide memory
(38 MB a matrix) and time. The running sums are float32: counts are exact to 16 million, other sums good to 1e-6."""
SPARSE = 1 / 8
"""Share of values other than 0 up to which skipping zeros is faster."""


def gram(left: Float[Tensor, "n d"], right: Float[Tensor, "n e"], chosen: Selection) -> Float[Tensor, "d e"]:
    """`left.T @ right`, where `chosen` are the places of `left` that may differ from 0."""
    if len(chosen.latents) > SPARSE * left.numel():
        return left.T @ right
    return chosen.scatter(left[chosen.tokens, chosen.latents], right)
