"""Everything temporal that is measured on one signal: codes, or activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stages.evaluate.bootstrap import NO_REPLICATES
from stages.evaluate.standard_error import standard_error
from stages.evaluate.temporal.consistency import ADJACENT, SCALES, DrawnConsistency, Lags, consistency, corpus_variance
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.lagged import FEW_LAGS, LaggedSums
from stages.evaluate.temporal.patterns import Crossed, PatternMeter, Patterns
from stages.evaluate.temporal.segments import Segments
from stages.evaluate.temporal.stability import FeatureStability, Smoothness, persistence


@dataclass(frozen=True)
class Measure:
    """Temporal metrics of one signal, as in `temporal.json`. NaN where a number does not exist."""

    latents: int
    """Columns of the signal: latents with enough firings, or dimensions."""
    tokens: int
    """Kept tokens."""
    tcs: dict[str, float]
    """Temporal consistency by scale."""
    tcs_binary: dict[str, float]
    """The same of firings as 0 and 1. NaN for activations, as is everything below about firings."""
    autocorrelation: list[float]
    """By lag from 1, the mean over latents; mean and variance are the corpus's, not a document's."""
    autocorrelation_firing_weighted: list[float]
    """The mean in which a latent counts by its firings."""
    slowness: float
    """Mean over latents of E(h_{t+1} - h_t)^2 / sigma^2 (slow feature analysis)."""
    fsm_support: float
    """Stability of the active set from token to token."""
    fsm_magnitude: float
    """Stability of the magnitudes of what stays active."""
    persistence: dict[str, float]
    """By lag, how much a firing says about a firing so much later."""
    smoothness: float
    """The T-SAE paper's, in the units of the signal and of raw activations."""
    level_smoothness: list[float]
    """The same for the latents that each Matryoshka level adds; empty without levels."""
    patterns: Patterns
    """Positions, lifetimes, transitions, redundancy, kinds of latents."""
    replicates: dict[str, Float[np.ndarray, " replicates"]] = field(compare=False)
    """Of scalars, by the names of these: those of the bootstrap over documents, of lifetimes those of the jackknife."""

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers that summaries have, by their names there."""
        names = ("fsm_support", "fsm_magnitude", "slowness", "smoothness")
        scores = {f"tcs_{scale}": score for scale, score in self.tcs.items()}
        levels = {f"level{i}_smoothness": value for i, value in enumerate(self.level_smoothness)}
        return scores | {name: getattr(self, name) for name in names} | levels | self.patterns.scalars

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors of scalars, by the names of these."""
        return {name: standard_error(replicates) for name, replicates in self.replicates.items()}

    def document(self) -> dict[str, Any]:
        """For JSON: None for NaN. Of the replicates only what they say of the errors."""
        return _for_json(asdict(self) | {"standard_errors": self.errors})


class Meter:
    """Running sums of one signal `[n, d]` of which all columns count."""

    def __init__(
        self,
        lags: Lags,
        d: int,
        device: torch.device,
        fires: bool,
        levels: Sequence[tuple[int, int]] = (),
        crossed: Crossed | None = None,
    ) -> None:
        """`fires` says that columns have events; otherwise each is always active. `levels` are the
        first column of each level and that behind its last; pairs of the `crossed` columns are looked at."""
        self._lags, self._levels = lags, levels
        self._value = LaggedSums(lags.context, d, device, lags.weights)
        self._drawn = DrawnConsistency(lags, d, device)
        self._firing = LaggedSums(lags.context, d, device) if fires else None
        self._stability = FeatureStability(device)
        self._smoothness = Smoothness(device)
        self._level_smoothness = [Smoothness(device) for _ in levels]
        self._patterns = PatternMeter(lags.context, d, device, fires, crossed)

    def add(
        self,
        h: Float[Tensor, "n d"],
        active: Bool[Tensor, "n d"],
        steps: Float[Tensor, " n-1"],
        segments: Segments,
    ) -> None:
        """Count the kept tokens of one batch; `steps` are the distances between inputs of adjacent tokens."""
        self._drawn.add(h, self._value.add(h, segments), segments)
        firings = None
        if self._firing:
            firings = Firings(active)
            self._firing.add(firings.dense, segments)
            self._stability.add(h, firings, segments)
        self._smoothness.add(h, active, steps, segments)
        for (first, last), smoothness in zip(self._levels, self._level_smoothness, strict=True):
            smoothness.add(h[:, first:last], active[:, first:last], steps, segments)
        self._patterns.add(h, firings, segments)

    def finish(self) -> Measure:
        """The metrics of everything counted."""
        sums, lags = self._value, self._lags
        correlation = autocorrelation(sums, lags)
        variance, adjacent = corpus_variance(sums, lags), bool(lags.enough[1])
        scores = consistency(sums, lags)
        slow = sums.differences[1] / lags.pairs[1] / variance
        patterns = self._patterns.finish(lags, sums.heads[0] / int(lags.pairs[0]), variance, correlation, self._firing)
        plain = Measure(
            latents=sums.heads.shape[1],
            tokens=int(lags.pairs[0]),
            tcs={scale: scores[scale] for scale in SCALES},
            tcs_binary=dict.fromkeys(SCALES, math.nan),
            autocorrelation=correlation.nanmean(dim=1).tolist(),
            autocorrelation_firing_weighted=[math.nan] * len(correlation),
            slowness=float(slow.nanmean()) if adjacent else math.nan,
            fsm_support=self._stability.support.value if adjacent else math.nan,
            fsm_magnitude=1 - self._stability.change.value if adjacent else math.nan,
            persistence={str(lag): math.nan for lag in FEW_LAGS},
            smoothness=self._smoothness.mean.value,
            level_smoothness=[smoothness.mean.value for smoothness in self._level_smoothness],
            patterns=patterns,
            replicates=self._replicated(adjacent) | patterns.replicates,
        )
        return self._with_firings(plain, self._firing, correlation) if self._firing else plain

    def _replicated(self, adjacent: bool) -> dict[str, Float[np.ndarray, " replicates"]]:
        """Replicates of what is counted here, by the names of scalars."""
        scores, stability = self._drawn.finish(self._value), self._stability
        found = {f"tcs_{scale}": scores[scale] for scale in SCALES}
        found |= {"slowness": 2 * (1 - scores[ADJACENT]), "smoothness": self._smoothness.mean.replicates}
        found |= {f"level{i}_smoothness": each.mean.replicates for i, each in enumerate(self._level_smoothness)}
        if self._firing:
            found["fsm_support"] = stability.support.replicates if adjacent else NO_REPLICATES
            found["fsm_magnitude"] = 1 - stability.change.replicates if adjacent else NO_REPLICATES
        return found

    def _with_firings(self, plain: Measure, firing: LaggedSums, correlation: Float[Tensor, "lags d"]) -> Measure:
        """The measure, with what is known from firings alone or by them."""
        lags = self._lags
        weights = firing.heads[0].where(correlation.isfinite(), 0)
        lasting = [lag for lag in FEW_LAGS if lag < lags.context and lags.enough[lag]]
        binary = consistency(firing, lags)
        return replace(
            plain,
            tcs_binary={scale: binary[scale] for scale in SCALES},
            autocorrelation_firing_weighted=((weights * correlation.nan_to_num()).sum(1) / weights.sum(1)).tolist(),
            persistence=plain.persistence | {str(lag): persistence(firing, lags.pairs, lag) for lag in lasting},
        )


def autocorrelation(sums: LaggedSums, lags: Lags) -> Float[Tensor, "context-1 d"]:
    """E[(h_t - mu)(h_{t+lag} - mu)] / sigma^2 by lag from 1; NaN for a lag without enough pairs, or a constant."""
    pairs = torch.as_tensor(lags.pairs, device=sums.heads.device)[:, None]
    mean = sums.heads[0] / pairs[0]
    covariance = (sums.products - mean * (sums.heads + sums.tails)) / pairs + mean.square()
    enough = torch.as_tensor(lags.enough, device=sums.heads.device)[:, None]
    return (covariance / corpus_variance(sums, lags)).where(enough, torch.nan)[1:]


def _for_json(value: Any) -> Any:
    """The same with None for every number that does not exist, and without replicates."""
    match value:
        case dict():
            return {key: _for_json(each) for key, each in value.items() if key != "replicates"}
        case list():
            return [_for_json(each) for each in value]
        case float():
            return value if math.isfinite(value) else None
    return value
