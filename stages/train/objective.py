"""The objective: weighted loss terms, each a mean over kept tokens, in normalised units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.sae.codes import Codes
from stages.sae.model import SAE
from stages.sae.variant import ObjectiveRow
from stages.train.schedule import Boost, Ramp
from stages.train.temporal import Consistency, TemporalTerms


class Batch(NamedTuple):
    """Windows of a store in normalised units."""

    x: Float[Tensor, "batch seq d_in"]
    """Activations; zero where not kept."""
    segments: Int[Tensor, "batch seq"]
    """Document of each token; -1 at BOS and padding."""
    keep: Bool[Tensor, "batch seq"]
    """Whether a token counts: whether it belongs to a document."""
    n_kept: int
    """How many count."""


class Evaluated(NamedTuple):
    """An SAE's work on a batch and what it costs."""

    terms: dict[str, Float[Tensor, ""]]
    """Weighted loss terms by name; the loss is their sum."""
    codes: Codes
    """The codes."""
    error: Float[Tensor, "batch seq d_in"]
    """Inputs minus reconstruction, without gradient."""
    consistency: Consistency | None
    """The temporal terms; None where the objective has none at this step."""


class Objective:
    """The loss of a row of the table."""

    def __init__(self, row: ObjectiveRow, seed: int) -> None:
        self.row = row
        self.l1_ramp = Ramp(row.l1_warmup)
        boost = row.reconstruction_boost
        self.boost = Boost(boost.factor, boost.hold, boost.back) if boost else Boost(1.0, 0, 0)
        self.temporal = TemporalTerms(row.temporal, seed) if row.temporal else None
        weights = {"reconstruction": 1.0, "l1": row.l1, "aux": row.aux}
        self.terms = [name for name, weight in weights.items() if weight]
        """Names of the terms that this objective may have: some appear late, `aux` while there are dead latents."""
        self.terms += self.temporal.names if self.temporal else []

    def l1_at(self, step: int) -> float:
        """The weight of the L1 term at a step."""
        return self.row.l1 * self.l1_ramp.at(step)

    def __call__(self, sae: SAE, batch: Batch, dead: Bool[Tensor, " d_sae"], step: int) -> Evaluated:
        """Encode, decode and weigh. A term without weight is not computed."""
        codes = sae.sparse_codes(batch.x, batch.segments)
        error = batch.x - sae.decode_sparse(codes)
        terms = {"reconstruction": self.boost.at(step) * squared_norm(error, batch)}
        if self.row.l1:
            terms["l1"] = self.l1_at(step) * kept_mean(codes.total(), batch)
        if self.row.aux and bool(dead.any()):
            terms["aux"] = self.row.aux * auxiliary(sae, batch, error.detach(), dead)
        consistency = self.temporal(codes.dense(), batch.segments, step) if self.temporal else None
        if consistency is not None:
            terms |= consistency.terms
        return Evaluated(terms, codes, error.detach(), consistency)


def kept_mean(values: Float[Tensor, "batch seq"], batch: Batch) -> Float[Tensor, ""]:
    """The mean of a number a token over kept tokens."""
    return (values * batch.keep).sum() / max(1, batch.n_kept)


def squared_norm(error: Float[Tensor, "batch seq d_in"], batch: Batch) -> Float[Tensor, ""]:
    """`||error||^2`, summed over d_in, in the mean over kept tokens."""
    masked = error * batch.keep.unsqueeze(-1)
    return (masked * masked).sum() / max(1, batch.n_kept)


def auxiliary(
    sae: SAE, batch: Batch, residual: Float[Tensor, "batch seq d_in"], dead: Bool[Tensor, " d_sae"]
) -> Float[Tensor, ""]:
    """How badly the d_in / 2 dead latents with the largest pre-activations model what the others leave.

    AuxK of Gao et al. 2024 (arXiv 2406.04093, appendix A.2), on pre-activations as they are: behind a ReLU, a latent
    whose pre-activation is negative for every token would get no gradient and stay dead.
    """
    latents = dead.nonzero().squeeze(-1)
    pre = sae.pre_activations(batch.x, latents)
    k = max(1, sae.d_in // 2)
    if len(latents) > k:
        values, indices = pre.topk(k, dim=-1, sorted=False)
        pre = torch.zeros_like(pre).scatter(-1, indices, values)
    return squared_norm(residual - pre @ sae.W_dec.index_select(0, latents), batch)
