"""What the log says of a step."""

from __future__ import annotations

import resource

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stages.sae.model import SAE
from stages.sae.objective_row import spans_of
from stages.sae.products import product
from stages.sae.threshold import JumpReLU
from stages.train.objective import Batch, Evaluated, Objective, squared_norm

COUNTS = ("contrast_pairs", "temporal/pairs", "buffer/tokens", "buffer/resets")
"""Beginnings of the names of metrics that a step has as many of as its parts have together."""


class StepMetrics:
    """The metrics of a step, part by part: their mean by kept tokens, of counts the sum.

    Explained variance is centred on the mean of the store's train split, not the batch's.
    """

    def __init__(self, sae: SAE, objective: Objective, n_kept: int) -> None:
        """`n_kept` are the tokens of all parts that count."""
        self.sae = sae
        self.objective = objective
        self.n_kept = max(1, n_kept)
        self.sums: dict[str, Float[Tensor, ""]] = {}

    @torch.no_grad()
    def add(self, part: Batch, found: Evaluated) -> None:
        """Take in what was found in a part."""
        for name, value in _of_part(self.sae, self.objective, part, found).items():
            weight = 1.0 if name.startswith(COUNTS) else part.n_kept / self.n_kept
            self.sums[name] = self.sums.get(name, 0.0) + weight * value.to(torch.float64)

    @torch.no_grad()
    def finish(self, dead: Bool[Tensor, " d_sae"]) -> dict[str, float]:
        """All metrics by name."""
        sae, row, sums = self.sae, self.objective.row, dict(self.sums)
        energy = sums["input_energy"]
        for name in [name for name in sums if name.endswith("unexplained")]:
            sums[name.replace("unexplained", "explained_variance")] = 1 - sums.pop(name) / energy
        sums |= {"dead_latents": (dead | sae.pruned).sum(), "encoder_bias": sae.b_enc.mean()}
        if row.pruning is not None:
            sums["pruned_latents"] = sae.pruned.sum()
        for index, (first, last) in enumerate(spans_of(row.level_widths(sae.d_sae))):
            sums[f"level/{index}_dead_share"] = (dead | sae.pruned)[first:last].double().mean()
        numbers = torch.stack([value.to(torch.float64) for value in sums.values()]).tolist()
        terms = {f"loss/{name}": 0.0 for name in self.objective.terms}
        return {**terms, **dict(zip(sums, numbers, strict=True))}


def _of_part(sae: SAE, objective: Objective, batch: Batch, found: Evaluated) -> dict[str, Float[Tensor, ""]]:
    n_kept = max(1, batch.n_kept)
    events = found.codes.events
    values = {
        "loss/total": found.total,
        **{f"loss/{name}": term for name, term in found.terms.items()},
        "l0": (events.count() * batch.keep).sum() / n_kept,
        "unexplained": squared_norm(found.error, batch),
        "input_energy": batch.x.square().sum() / n_kept,
    }
    if isinstance(sae.sparsifier, JumpReLU) and found.pre is not None:
        values["threshold"] = sae.sparsifier.threshold.mean() / found.pre.square().mean().sqrt()
    if events is not found.codes:
        values["l0_codes"] = (found.codes.count() * batch.keep).sum() / n_kept
    if objective.row.contrast is not None:
        values["contrast_pairs"] = torch.tensor(found.pairs, device=batch.x.device)
    if objective.row.levels:
        values |= _of_levels(sae, objective, batch, found)
    if objective.temporal is not None:
        slope = found.error * (2 / n_kept * batch.keep).unsqueeze(-1)
        pull = product(slope.flatten(0, -2), sae.W_dec.T, sae.products).norm()
        reconstruction = values["unexplained"]
        codes = found.codes.dense()
        values |= objective.temporal.metrics(found.consistency, codes, batch.segments, reconstruction, pull)
    return values


def _of_levels(sae: SAE, objective: Objective, batch: Batch, found: Evaluated) -> dict[str, Float[Tensor, ""]]:
    """For each level the active latents that it adds, and what it and those before it leave of the inputs."""
    values = {}
    active = (found.codes.events.dense() > 0) & batch.keep.unsqueeze(-1)
    for index, (first, last) in enumerate(spans_of(objective.row.level_widths(sae.d_sae))):
        values[f"level/{index}_l0"] = active[..., first:last].sum() / max(1, batch.n_kept)
        values[f"level/{index}_unexplained"] = squared_norm(found.errors[index], batch)
    return values


@torch.no_grad()
def instruments(sae: SAE, batch: Batch) -> dict[str, float]:
    """Gradient norm of every parameter before the step; norm, mean and spread of every parameter of a part and of what
    it makes of the inputs; values that are not finite in all of them."""
    found: dict[str, Tensor] = {}
    outputs = sae.after_parts(batch.x, batch.segments)
    for name, parameter in sae.named_parameters():
        if parameter.grad is not None:
            found[f"gradient/{name}"] = parameter.grad.norm()
        if "." in name:
            found[f"part/{name}_norm"] = parameter.norm()
            found[f"part/{name}_mean"] = parameter.mean()
            found[f"part/{name}_std"] = parameter.std(correction=0)
    for name, output in outputs.items():
        kept = output[batch.keep]
        found[f"output/{name}_norm"] = kept.norm(dim=-1).mean()
        found[f"output/{name}_mean"], found[f"output/{name}_std"] = kept.mean(), kept.std(correction=0)
    everything = [*sae.parameters(), batch.x, *outputs.values()]
    found["not_finite"] = torch.stack([(~each.isfinite()).sum() for each in everything]).sum()
    return {name: float(value) for name, value in found.items()}


def peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
