"""The objective: weighted loss terms, each a mean over kept tokens, in normalised units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stages.sae.codes import Codes
from stages.sae.model import SAE, Encoding
from stages.sae.objective_row import ObjectiveRow
from stages.sae.threshold import JumpReLU
from stages.train.schedule import Boost, Ramp
from stages.train.temporal import Consistency, TemporalTerms
from stages.train.terms import contrast, level_errors, separation


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

    def parts(self, count: int) -> list[Batch]:
        """The batch in `count` parts of about as many windows each."""
        if count == 1:
            return [self]
        cut = zip(*(tensor.tensor_split(count) for tensor in self[:3]), strict=True)
        return [Batch(x, segments, keep, int(keep.sum())) for x, segments, keep in cut]


class Evaluated(NamedTuple):
    """An SAE's work on a batch and what it costs."""

    terms: dict[str, Float[Tensor, ""]]
    """Weighted loss terms by name; the loss is their sum."""
    codes: Codes
    """The codes."""
    pre: Float[Tensor, "batch seq d_sae"] | None
    """What the sparsifier saw, without gradient; None where it never stood in memory."""
    errors: list[Float[Tensor, "batch seq d_in"]]
    """Inputs minus reconstruction, without gradient, for each level; all latents come last."""
    consistency: Consistency | None
    """The temporal terms; None where the objective has none at this step."""
    pairs: int
    """Pairs of the contrastive term."""

    @property
    def error(self) -> Float[Tensor, "batch seq d_in"]:
        """What all latents leave of the inputs."""
        return self.errors[-1]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The loss."""
        return torch.stack(list(self.terms.values())).sum()


class Objective:
    """The loss of a row of the table."""

    def __init__(self, row: ObjectiveRow, seed: int, steps: int, recompute: bool = False) -> None:
        """`steps` are those of the training; `recompute` encodes again in the backward pass."""
        self.row = row
        self.seed = seed
        self.recompute = recompute
        self.l1_ramp = Ramp(row.l1_warmup)
        boost = row.reconstruction_boost
        self.boost = Boost(boost.factor, boost.hold, boost.back) if boost else Boost(1.0, 0, 0)
        self.temporal = TemporalTerms(row.temporal, seed, steps) if row.temporal else None
        contrast_weight = row.contrast.weight if row.contrast else 0.0
        separation_weight = row.separation.weight if row.separation else 0.0
        weights = {"reconstruction": 1.0, "l1": row.l1, "l0": row.l0, "aux": row.aux}
        weights |= {"contrast": contrast_weight, "separation": separation_weight}
        self.terms = [name for name, weight in weights.items() if weight]
        """Names of the terms that this objective may have: some appear late, `aux` while there are dead latents."""
        self.terms += self.temporal.names if self.temporal else []

    def l1_at(self, step: int) -> float:
        """The weight of the L1 term at a step."""
        return self.row.l1 * self.l1_ramp.at(step)

    def __call__(self, sae: SAE, batch: Batch, dead: Bool[Tensor, " d_sae"], step: int) -> Evaluated:
        """Encode, decode and weigh. A term without weight is not computed."""
        row = self.row
        encoding = self._encode(sae, batch)
        codes = encoding.codes
        if row.levels:
            errors = level_errors(batch.x, codes, sae, row.level_widths(sae.d_sae))
            losses = [
                level.weight * squared_norm(error, batch) for level, error in zip(row.levels, errors, strict=True)
            ]
            reconstruction = torch.stack(losses).sum()
        else:
            errors = [batch.x - sae.decode_sparse(codes)]
            reconstruction = squared_norm(errors[0], batch)
        terms = {"reconstruction": self.boost.at(step) * reconstruction}
        if row.l1:
            terms["l1"] = self.l1_at(step) * kept_mean(codes.total(), batch)
        if row.l0:
            weight = row.l0 * self.l1_ramp.at(step) / sae.d_sae
            terms["l0"] = weight * kept_mean(active_latents(sae, encoding), batch)
        if row.aux and bool(dead.any()):
            terms["aux"] = row.aux * auxiliary(sae, encoding, batch, errors[-1].detach(), dead)
        if row.separation and row.separation.weight:
            terms["separation"] = row.separation.weight * separation(sae.W_dec, row.separation, self.seed, step)
        pairs = 0
        if row.contrast and row.contrast.weight:
            loss, pairs = contrast(codes, batch.segments, row.contrast, sae.d_sae)
            terms["contrast"] = row.contrast.weight * loss
        consistency = None
        if self.temporal is not None:
            consistency = self.temporal(codes.dense(), batch.segments, step, reconstruction, sae.products)
        if consistency is not None:
            terms |= consistency.terms
        pre = None if encoding.pre is None else encoding.pre.detach()
        return Evaluated(terms, codes, pre, [error.detach() for error in errors], consistency, pairs)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint; empty unless weights adapt."""
        return {"means": self.temporal.means} if self.temporal and self.temporal.row.adaptive else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        if self.temporal is not None and "means" in state:
            self.temporal.means = state["means"].clone()

    def _encode(self, sae: SAE, batch: Batch) -> Encoding:
        if not self.recompute:
            return sae.encoding(batch.x, batch.segments)
        found: Encoding = checkpoint(sae.encoding, batch.x, batch.segments, use_reentrant=False)
        return found


def active_latents(sae: SAE, encoding: Encoding) -> Float[Tensor, "batch seq"]:
    """Active latents of each token, differentiable with respect to learned thresholds."""
    assert isinstance(sae.sparsifier, JumpReLU) and encoding.pre is not None, "check_plan refuses other sparsifiers"
    return sae.sparsifier.count(encoding.pre)


def kept_mean(values: Float[Tensor, "batch seq"], batch: Batch) -> Float[Tensor, ""]:
    """The mean of a number a token over kept tokens."""
    return (values * batch.keep).sum() / max(1, batch.n_kept)


def squared_norm(error: Float[Tensor, "batch seq d_in"], batch: Batch) -> Float[Tensor, ""]:
    """`||error||^2`, summed over d_in, in the mean over kept tokens."""
    masked = error * batch.keep.unsqueeze(-1)
    return (masked * masked).sum() / max(1, batch.n_kept)


def auxiliary(
    sae: SAE,
    encoding: Encoding,
    batch: Batch,
    residual: Float[Tensor, "batch seq d_in"],
    dead: Bool[Tensor, " d_sae"],
) -> Float[Tensor, ""]:
    """How badly the d_in / 2 dead latents with the largest pre-activations model what the others leave.

    AuxK of Gao et al. 2024 (arXiv 2406.04093, appendix A.2), on pre-activations as they are: behind a ReLU, a latent
    whose pre-activation is negative for every token would get no gradient and stay dead.
    """
    latents = dead.nonzero().squeeze(-1)
    pre = sae.pre_activations(encoding, latents)
    k = max(1, sae.d_in // 2)
    if len(latents) > k:
        values, indices = pre.topk(k, dim=-1, sorted=False)
        pre = torch.zeros_like(pre).scatter(-1, indices, values)
    return squared_norm(residual - pre @ sae.W_dec.index_select(0, latents), batch)
