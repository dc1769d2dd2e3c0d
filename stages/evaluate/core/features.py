"""Metrics of single latents, and what SAEBench derives from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from stages.evaluate.core.variance import Variance
from stages.sae.model import SAE

BLOCK = 1024
"""Latents whose cosines with all others are held at a time."""


def max_cosine(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Largest (signed) cosine of every vector with any other one."""
    unit = torch.nn.functional.normalize(vectors, dim=1)
    parts = []
    for block in torch.arange(len(unit)).split(BLOCK):
        cosines = unit[block] @ unit.T
        cosines[torch.arange(len(block)), block] = -torch.inf
        parts.append(cosines.amax(dim=1))
    return torch.cat(parts)


@torch.no_grad()
def latent_metrics(sae: SAE, variance: Variance) -> dict[str, Float[Tensor, " d_sae"]]:
    """SAEBench's metrics of every latent, by its names; NaN where a zero vector divides."""
    encoder, decoder = sae.W_enc.T, sae.W_dec
    norms = encoder.norm(dim=1)
    return {
        "feature_density": variance.firings.positive.tokens / variance.tokens,
        "consistent_activation_heuristic": variance.firings.positive.consistency,
        "encoder_bias": sae.b_enc,
        "encoder_norm": norms,
        "encoder_decoder_cosine_sim": (encoder * decoder).sum(dim=1) / (norms * decoder.norm(dim=1)),
        "max_decoder_cosine_sim": max_cosine(decoder),
        "max_encoder_cosine_sim": max_cosine(encoder),
    }


def other_latent_metrics(variance: Variance) -> dict[str, Float[Tensor, " d_sae"]]:
    """Those of SAELens and our own that are not SAEBench's, as far as an SAE makes them differ."""
    positive, nonzero, events = variance.firings
    found = {}
    if not torch.equal(nonzero.tokens, positive.tokens):
        found["feature_density_saelens"] = nonzero.tokens / variance.tokens
        found["consistent_activation_heuristic_saelens"] = nonzero.consistency
    if not torch.equal(events.tokens, positive.tokens):
        found["event_density"] = events.tokens / variance.tokens
    return found


def misc_metrics(latents: Mapping[str, Float[Tensor, " d_sae"]]) -> dict[str, float]:
    """SAEBench's summary of `latent_metrics`. Thresholds are strict and compare in float32, as there."""
    density = latents["feature_density"].float()
    total = float(density.sum())

    def share_above(threshold: float) -> float:
        return float(density[density > threshold].sum()) / total if total else 0.0

    return {
        "freq_over_1_percent": float((density > 0.01).float().mean()),
        "freq_over_10_percent": float((density > 0.1).float().mean()),
        "normalized_freq_over_1_percent": share_above(0.01),
        "normalized_freq_over_10_percent": share_above(0.1),
        "average_max_encoder_cosine_sim": float(latents["max_encoder_cosine_sim"].mean()),
        "average_max_decoder_cosine_sim": float(latents["max_decoder_cosine_sim"].mean()),
        "frac_alive": float((density > 0).float().mean()),
    }
