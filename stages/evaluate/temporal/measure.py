"""Everything temporal that is measured on one signal: codes, or activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stages.evaluate.temporal.consistency import SCALES, Consistency, Lags, variance
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
    tcs_se: dict[str, float]
    """Its jackknife standard error."""
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
    fsm_support_se: float
    """Its jackknife standard error."""
    fsm_magnitude: float
    """Stability of the magnitudes of what stays active."""
    fsm_magnitude_se: float
    """Its jackknife standard error."""
    persistence: dict[str, float]
    """By lag, how much a firing says about a firing so much later."""
    smoothness: float
    """The T-SAE paper's, in the units of the signal and of raw activations."""
    smoothness_se: float
    """Its jackknife standard error."""
    level_smoothness: list[float]
    """The same for the latents that each Matryoshka level adds; empty without levels."""
    patterns: Patterns
    """Positions, lifetimes, transitions, redundancy, kinds of latents."""

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
        names = ("fsm_support", "fsm_magnitude", "smoothness")
        errors = {f"tcs_{scale}": error for scale, error in self.tcs_se.items()}
        errors |= {name: getattr(self, f"{name}_se") for name in names}
        return errors | self.patterns.errors

    def document(self) -> dict[str, Any]:
        """For JSON: None for NaN."""
        return _without_nan(asdict(self))


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
        self._lags, self._fires, self._levels = lags, fires, levels
        signals = ["value", "firing"] if fires else ["value"]
        self._sums = {name: LaggedSums(lags.context, d, device) for name in signals}
        self._consistency = {name: Consistency(lags, d, device) for name in signals}
        self._stability = FeatureStability()
        self._smoothness = Smoothness()
        self._level_smoothness = [Smoothness() for _ in levels]
        self._patterns = PatternMeter(lags.context, d, device, fires, crossed)

    def add(
        self,
        h: Float[Tensor, "n d"],
        active: Bool[Tensor, "n d"],
        steps: Float[Tensor, " n-1"],
        segments: Segments,
    ) -> None:
        """Count the kept tokens of one batch; `steps` are the distances between inputs of adjacent tokens."""
        self._sums["value"].add(h, segments)
        if self._fires:
            self._sums["firing"].add(active.float(), segments)
            self._stability.add(h, active, segments)
        self._smoothness.add(h, active, steps, segments)
        for (first, last), smoothness in zip(self._levels, self._level_smoothness, strict=True):
            smoothness.add(h[:, first:last], active[:, first:last], steps, segments)
        self._patterns.add(h, active, segments)

    def end_group(self) -> None:
        """Tell the jackknife that a group of batches is complete."""
        for name, consistency in self._consistency.items():
            consistency.end_group(self._sums[name])
        self._stability.end_group()
        self._smoothness.mean.end_group()
        self._patterns.end_group()

    def finish(self) -> Measure:
        """The metrics of everything counted."""
        sums, lags = self._sums["value"], self._lags
        correlation = autocorrelation(sums, lags)
        tcs, errors = self._consistency["value"].finish()
        variance = _variance(sums, lags)
        slow = sums.differences[1] / lags.pairs[1] / variance
        support, change, adjacent = self._stability.support, self._stability.change, bool(lags.enough[1])
        plain = Measure(
            latents=sums.heads.shape[1],
            tokens=int(lags.pairs[0]),
            tcs=tcs,
            tcs_se=errors,
            tcs_binary=dict.fromkeys(SCALES, math.nan),
            autocorrelation=correlation.nanmean(dim=1).tolist(),
            autocorrelation_firing_weighted=[math.nan] * len(correlation),
            slowness=float(slow.nanmean()) if adjacent else math.nan,
            fsm_support=support.value if adjacent else math.nan,
            fsm_support_se=support.standard_error if adjacent else math.nan,
            fsm_magnitude=1 - change.value if adjacent else math.nan,
            fsm_magnitude_se=change.standard_error if adjacent else math.nan,
            persistence={str(lag): math.nan for lag in FEW_LAGS},
            smoothness=self._smoothness.mean.value,
            smoothness_se=self._smoothness.mean.standard_error,
            level_smoothness=[smoothness.mean.value for smoothness in self._level_smoothness],
            patterns=self._patterns.finish(
                lags, sums.heads[0] / int(lags.pairs[0]), variance, correlation, self._sums.get("firing")
            ),
        )
        return self._with_firings(plain, correlation) if self._fires else plain

    def _with_firings(self, plain: Measure, correlation: Float[Tensor, "lags d"]) -> Measure:
        """The measure, with what is known from firings alone or by them."""
        firing, lags = self._sums["firing"], self._lags
        weights = firing.heads[0].where(correlation.isfinite(), 0)
        lasting = [lag for lag in FEW_LAGS if lag < lags.context and lags.enough[lag]]
        return replace(
            plain,
            tcs_binary=self._consistency["firing"].finish()[0],
            autocorrelation_firing_weighted=((weights * correlation.nan_to_num()).sum(1) / weights.sum(1)).tolist(),
            persistence=plain.persistence | {str(lag): persistence(firing, lags.pairs, lag) for lag in lasting},
        )


def autocorrelation(sums: LaggedSums, lags: Lags) -> Float[Tensor, "context-1 d"]:
    """E[(h_t - mu)(h_{t+lag} - mu)] / sigma^2 by lag from 1; NaN for a lag without enough pairs, or a constant."""
    pairs = torch.as_tensor(lags.pairs, device=sums.heads.device)[:, None]
    mean = sums.heads[0] / pairs[0]
    covariance = (sums.products - mean * (sums.heads + sums.tails)) / pairs + mean.square()
    enough = torch.as_tensor(lags.enough, device=sums.heads.device)[:, None]
    return (covariance / _variance(sums, lags)).where(enough, torch.nan)[1:]


def _variance(sums: LaggedSums, lags: Lags) -> Float[Tensor, " d"]:
    """sigma^2 over all kept tokens, NaN for a constant."""
    tokens = int(lags.pairs[0])
    return variance(sums.heads[0] / tokens, sums.squares[0] / 2 / tokens)


def _without_nan(value: Any) -> Any:
    """The same with None for every number that does not exist."""
    match value:
        case dict():
            return {key: _without_nan(each) for key, each in value.items()}
        case list():
            return [_without_nan(each) for each in value]
        case float():
            return value if math.isfinite(value) else None
    return value
