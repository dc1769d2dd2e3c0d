"""Causal attention within documents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stages.sae.layout import Layout


def attend(
    query: Float[Tensor, "batch seq d"],
    key: Float[Tensor, "batch seq d"],
    value: Float[Tensor, "batch seq d"],
    heads: int,
    layout: Layout,
) -> Float[Tensor, "batch seq d"]:
    """What each token gets from itself and the tokens before it in its document, head by head.

    A token outside of documents sees itself, so that its softmax is defined; nothing reads the result.
    """
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    seen = layout.visible | torch.diag_embed(~layout.keep)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen.unsqueeze(1)).transpose(1, 2).flatten(2)
