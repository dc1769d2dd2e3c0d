"""Sparsity and variance metrics on activations: SAEBench 0.6.0's definitions, SAELens 6.54's, and our own.

Streaming: sums over tokens are float64, nothing is kept per token. What depends on the inputs alone is
computed once a batch, however many SAEs are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.evaluate.bootstrap import Draws, Sums
from stages.evaluate.core.firings import FiringsByDefinition
from stages.evaluate.core.rows import Rows
from stages.sae.model import SAE
from stages.sae.objective_row import spans_of
from store.progress import SILENT, Progress

SMALL_NORM = 1e-4
"""SAEBench divides by 1 where a token's norm is below this."""
SMALL_VARIANCE = 1e-10
"""SAELens's explained variance is 1 or 0 where the variance of the inputs is below this."""


class Inputs:
    """Statistics of the inputs of one batch that every SAE shares. Kept positions only, flattened."""

    def __init__(self, x: Float[Tensor, "batch seq d"], document: Int[Tensor, "batch seq"]) -> None:
        self.keep = document >= 0
        self.draws = Draws.of(document[self.keep].cpu().numpy(), x.device)
        self.x = x[self.keep]
        self.tokens = len(self.x)
        self.norm = self.x.norm(dim=-1)
        self.mean = self.x.mean(dim=0)
        self.centred_squares = (self.x - self.mean).square().sum(dim=-1)


class InputMoments:
    """Running moments of the inputs: the denominators of the two explained variances."""

    def __init__(self, d: int, device: torch.device) -> None:
        self.tokens = 0
        self.mean = torch.zeros(d, dtype=torch.float64)
        self.centred_squares = 0.0
        self.batch_squares: list[float] = []
        self._offset: Tensor | None = None
        self._drawn = Sums(2 + d, device)

    def add(self, inputs: Inputs) -> None:
        """Merge a batch (Chan, Golub and LeVeque 1979): exact also where the mean outweighs the spread."""
        step = inputs.mean.double().cpu() - self.mean
        total = self.tokens + inputs.tokens
        between = float(step.square().sum()) * self.tokens * inputs.tokens / total
        self.centred_squares += float(inputs.centred_squares.double().sum()) + between
        self.mean += step * (inputs.tokens / total)
        self.tokens = total
        self.batch_squares.append(float(inputs.norm.double().square().mean()))
        self._add_drawn(inputs)

    def _add_drawn(self, inputs: Inputs) -> None:
        """Sums of 1, of ‖x‖² and of x, less the mean of the first batch: they would lose digits to its size."""
        if self._offset is None:
            self._offset = inputs.mean
        centred = inputs.x - self._offset
        squares = centred.square().sum(dim=-1, keepdim=True)
        columns = torch.cat([torch.ones_like(squares), squares, centred], dim=1)
        self._drawn.add(inputs.draws.by_run(columns), inputs.draws)

    @property
    def replicates(self) -> tuple[Float[Tensor, " replicates"], Float[Tensor, " replicates"]]:
        """Tokens, and the sum of their centred squares, in each replicate of the bootstrap over documents."""
        tokens, squares = self._drawn.replicates[:, :2].unbind(dim=1)
        return tokens, squares - self._drawn.replicates[:, 2:].square().sum(dim=1) / tokens

    @property
    def saebench_variance(self) -> float:
        """S - (S/D)^2 with S = E||x||^2: SAEBench 0.6.0 squares E[x_d^2] where the mean E[x_d] belongs."""
        squares = float(np.mean(self.batch_squares))
        return squares - (squares / len(self.mean)) ** 2


class VarianceMeter:
    """Sums of one SAE's sparsity and variance metrics."""

    def __init__(self, d_sae: int, device: torch.device, levels: Sequence[int] = ()) -> None:
        """`levels` are the numbers of latents that Matryoshka levels use, from the first one on."""
        self.levels = levels
        self.level_residuals = [0.0] * len(levels)
        self.tokens = 0
        self.sums: dict[str, float] = {}
        self._drawn = Sums(2, device)
        self.bias: list[float] = []
        self.batch_residual: list[float] = []
        self.firings = FiringsByDefinition.none(d_sae)

    def add(
        self,
        inputs: Inputs,
        codes: Float[Tensor, "batch seq d_sae"],
        events: Float[Tensor, "batch seq d_sae"],
        output: Float[Tensor, "batch seq d"],
    ) -> None:
        """Count one batch: `codes`, their `events` (the same tensor where codes are events) and `output` are the
        SAE's, for every position of the batch."""
        x, y, kept_codes = inputs.x, output[inputs.keep], codes[inputs.keep]
        y_norm = y.norm(dim=-1)
        product = (x * y).sum(dim=-1)
        residual = (x - y).square().sum(dim=-1)
        per_token = {
            "l2_norm_in": inputs.norm,
            "l2_norm_out": y_norm,
            "l2_ratio": y_norm / inputs.norm.where(inputs.norm >= SMALL_NORM, torch.ones_like(inputs.norm)),
            "l0": (kept_codes != 0).sum(dim=-1),
            "l0_events": (events[inputs.keep] > 0).sum(dim=-1),
            "l1": kept_codes.sum(dim=-1),
            "l1_saelens": kept_codes.abs().sum(dim=-1),
            "mse": residual / inputs.tokens,
            "mse_saelens": residual,
            "cossim": product / (inputs.norm * y_norm),
            "explained_variance_legacy": 1 - residual / inputs.centred_squares,
        }
        for name, values in per_token.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())
        both = torch.stack([per_token["mse_saelens"], per_token["l0_events"]], dim=1)
        self._drawn.add(inputs.draws.by_run(both), inputs.draws)
        self.tokens += inputs.tokens
        product_mean = float(product.double().mean())
        squares_mean = float(y_norm.double().square().mean())
        self.bias.append(squares_mean / product_mean if product_mean else math.nan)
        self.batch_residual.append(float(residual.double().mean()))
        self.firings = self.firings.plus(FiringsByDefinition.of(codes, events, inputs.keep))

    def add_levels(self, inputs: Inputs, codes: Float[Tensor, "batch seq d_sae"], sae: SAE) -> None:
        """Count what each level leaves of one batch."""
        for i, width in enumerate(self.levels):
            output = sae.decode(codes * (torch.arange(codes.shape[-1], device=codes.device) < width))
            self.level_residuals[i] += float((inputs.x - output[inputs.keep]).square().sum(dtype=torch.float64))

    def finish(self, moments: InputMoments) -> Variance:
        """The metrics of everything counted so far."""
        scalars = {name: total / self.tokens for name, total in self.sums.items()}
        residual, variance = scalars["mse_saelens"], moments.centred_squares / self.tokens
        scalars["relative_reconstruction_bias"] = float(np.mean(self.bias))
        scalars["explained_variance"] = 1 - float(np.mean(self.batch_residual)) / moments.saebench_variance
        scalars["explained_variance_centred"] = 1 - residual / variance if variance else math.nan
        constant = float(residual < SMALL_VARIANCE)
        scalars["explained_variance_saelens"] = constant if variance < SMALL_VARIANCE else 1 - residual / variance
        return Variance(scalars, self.tokens, self.firings, self._finished_levels(moments), self._replicated(moments))

    def _replicated(self, moments: InputMoments) -> dict[str, Float[np.ndarray, " replicates"]]:
        (residual, l0), (tokens, variance) = self._drawn.replicates.unbind(dim=1), moments.replicates
        found = {"explained_variance_centred": 1 - residual / variance, "l0": l0 / tokens}
        return {name: values.cpu().numpy() for name, values in found.items()}

    def _finished_levels(self, moments: InputMoments) -> list[dict[str, float]]:
        density, found = self.firings.events.tokens / self.tokens, []
        for (first, last), residual in zip(spans_of(self.levels), self.level_residuals, strict=True):
            own = density[first:last]
            explained = 1 - residual / moments.centred_squares if moments.centred_squares else math.nan
            alive = float((own > 0).double().mean())
            found.append({"l0": float(own.sum()), "alive": alive, "explained_variance_centred": explained})
        return found


@dataclass(frozen=True)
class Variance:
    """Sparsity and variance metrics of one SAE."""

    scalars: dict[str, float]
    """By SAEBench's names, with its peculiarities: `mse` is E||x-y||^2 over the tokens of a batch, `l1` is a
    sum without absolute value, `explained_variance` subtracts (E||x||^2/D)^2 where the squared mean belongs,
    which flatters an SAE, `explained_variance_legacy` is a mean of ratios. NaN where a norm of 0 divides. What else
    there is stands in `stages.evaluate.core.definitions`."""
    tokens: int
    """Kept tokens."""
    firings: FiringsByDefinition
    """At how many kept tokens and rows each latent fires."""
    levels: list[dict[str, float]]
    """For each Matryoshka level the active latents and the share alive of those that it adds, and the explained
    variance with those before it."""
    replicates: dict[str, Float[np.ndarray, " replicates"]]
    """In the bootstrap over documents, by the names of `summary.json`, whose `l0` is that of events."""

    @property
    def dead_latents(self) -> int:
        """Latents of which no kept token has an event."""
        return int((self.firings.events.tokens == 0).sum())


@torch.no_grad()
def sparsity_variance(
    saes: Mapping[str, SAE],
    source: Rows,
    layer: int,
    batches: Sequence[np.ndarray],
    progress: Progress = SILENT,
    levels: Mapping[str, Sequence[int]] | None = None,
    without_documents: Container[str] = (),
) -> dict[str, Variance]:
    """Encode and decode the activations of `batches` of rows with every SAE; by name, its metrics.

    The activations of a batch are read once. `levels` are those of Matryoshka SAEs. SAEs `without_documents` get rows
    as SAEBench and SAELens pass them: each is one document with BOS at position 0.
    """
    device = next(iter(saes.values())).W_dec.device
    meters = {
        name: VarianceMeter(sae.W_dec.shape[0], device, (levels or {}).get(name, ())) for name, sae in saes.items()
    }
    moments = InputMoments(source.layers[layer], device)
    progress.start("variance and sparsity", len(batches), "batches")
    for rows in batches:
        document: Int[Tensor, "batch seq"] = torch.as_tensor(source.document(rows)).to(device)
        x = source.read(layer, rows).to(device).float()
        inputs = Inputs(x, document)
        if inputs.tokens:
            moments.add(inputs)
            for name, sae in saes.items():
                found = sae.encoding(x, segments=None if name in without_documents else document).codes
                codes = found.dense()
                events = codes if found.events is found else found.events.dense()
                meters[name].add(inputs, codes, events, sae.decode(codes))
                meters[name].add_levels(inputs, codes, sae)
        progress.advance(1)
    return {name: meter.finish(moments) for name, meter in meters.items()}
