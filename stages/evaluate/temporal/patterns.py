"""Patterns of activation of one signal: positions, lifetimes, transitions, redundancy, kinds of latents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.evaluate.temporal.clusters import NO_CLUSTERS, Clusters, clusters
from stages.evaluate.temporal.consistency import Lags
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.gram import LIMIT
from stages.evaluate.temporal.lagged import FEW_LAGS, LaggedSums
from stages.evaluate.temporal.lifetimes import NO_LIFETIME, Lifetime, Lifetimes, integrated_time
from stages.evaluate.temporal.lift import Lift, LiftSums
from stages.evaluate.temporal.positions import BandSums, Positions, PositionSums, positions
from stages.evaluate.temporal.redundancy import Covariance, Redundancy
from stages.evaluate.temporal.segments import Segments
from stages.evaluate.temporal.transitions import NO_TRANSITIONS, Transitions, Turnover, chain


class Crossed(NamedTuple):
    """Columns of a signal of which all pairs are looked at."""

    columns: Int[Tensor, " crossed"]
    """Which."""
    latents: Int[Tensor, " crossed"]
    """Their numbers in the SAE."""
    correlated: bool
    """Whether at one token, too: the order of codes does not matter to that, so codes that are permuted need not."""

    @classmethod
    def of(cls, latents: Int[Tensor, " d"], firings: Float[Tensor, " d"]) -> Crossed:
        """The columns that fire most, as many as there is memory for; `latents` are the numbers of all columns."""
        columns = firings.topk(min(LIMIT, len(firings))).indices.sort().values
        return cls(columns, latents[columns], correlated=True)


@dataclass(frozen=True)
class Patterns:
    """Patterns of one signal; None for what it does not have: activations have no firings, and permuted codes correlate
    as they do in the order of the text. A latent is active where it has an event, as in FSM and persistence."""

    integrated_time: float
    """Median over latents of the integrated autocorrelation time, in tokens."""
    position: Positions
    """By position in the row."""
    redundancy: Redundancy | None
    """Correlation between latents."""
    lifetime: Lifetime | None
    """How long latents stay active."""
    transitions: Transitions | None
    """How they turn on and off."""
    lift: Lift | None
    """Which follow which. None, too, where too few pairs of tokens are adjacent within a document."""
    clusters: Clusters | None
    """Kinds of latents."""

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers that summaries have, by their names there."""
        found = {
            "integrated_time": self.integrated_time,
            "position_correlation": self.position.correlation_mean,
            "position_slope": self.position.slope,
        }
        if self.redundancy:
            found["effective_rank"] = self.redundancy.effective_rank
            found["high_correlation_share"] = self.redundancy.high_share
        if self.lifetime:
            found["lifetime_ratio"] = self.lifetime.ratio
        if self.transitions:
            names = ("turnover", "turnover_sentence_boundary", "turnover_document_boundary")
            found |= {name: getattr(self.transitions, name) for name in names}
        if self.lift:
            found["lift_edges"] = self.lift.edges
        return found

    @property
    def replicates(self) -> dict[str, Float[np.ndarray, " replicates"]]:
        """Replicates of scalars, by the names of these."""
        found = self.lifetime.replicates if self.lifetime else {}
        return found | (self.transitions.replicates if self.transitions else {})


class PatternMeter:
    """Running sums of one signal `[n, d]`."""

    def __init__(self, context: int, d: int, device: torch.device, fires: bool, crossed: Crossed | None) -> None:
        """`fires` says that columns have events; pairs of the `crossed` columns are looked at."""
        self._crossed = crossed
        self._bands = BandSums(context, d, device)
        self._positions = PositionSums(context, d, device)
        self._lifetimes = Lifetimes(d, context, device)
        self._turnover = Turnover(d, device)
        self._covariance = Covariance(len(crossed.columns), device) if crossed and crossed.correlated else None
        self._lift = LiftSums(crossed.latents) if crossed and fires else None

    def add(self, h: Float[Tensor, "n d"], firings: Firings | None, segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        self._bands.add(h, segments)
        self._positions.add(h, segments)
        if firings:
            self._lifetimes.add(firings, segments)
            self._turnover.add(firings, segments)
        if self._crossed:
            if len(self._crossed.columns) < h.shape[1]:
                h = h.index_select(1, self._crossed.columns)
                firings = firings and firings.of(self._crossed.columns)
            if self._covariance:
                self._covariance.add(h, Firings(h != 0).chosen)
            if self._lift and firings:
                self._lift.add(firings, segments)

    def finish(
        self,
        lags: Lags,
        mean: Float[Tensor, " d"],
        variance: Float[Tensor, " d"],
        correlation: Float[Tensor, "lags d"],
        firing: LaggedSums | None,
    ) -> Patterns:
        """The patterns of everything counted, given each column's corpus moments and autocorrelation, and the lagged
        sums of the firings where there are any."""
        tokens = int(lags.pairs[0])
        integrated = integrated_time(correlation)
        plain = Patterns(
            integrated_time=float(integrated.nanmedian()),
            position=positions(self._bands, self._positions, tokens, mean, variance),
            redundancy=self._covariance.finish() if self._covariance else None,
            lifetime=None,
            transitions=None,
            lift=None,
            clusters=None,
        )
        if firing is None:
            return plain
        enough = bool(lags.enough[1])
        on, stay = chain(firing, int(lags.pairs[1]))
        return replace(
            plain,
            lifetime=self._lifetimes.finish(stay, integrated) if enough else NO_LIFETIME,
            transitions=self._turnover.finish(on, stay) if enough else NO_TRANSITIONS,
            lift=self._lift.finish() if self._lift and enough else None,
            clusters=clusters(self._properties(tokens, mean, variance, correlation, firing)) if enough else NO_CLUSTERS,
        )

    def _properties(
        self,
        tokens: int,
        mean: Float[Tensor, " d"],
        variance: Float[Tensor, " d"],
        correlation: Float[Tensor, "lags d"],
        firing: LaggedSums,
    ) -> dict[str, Float[np.ndarray, " d"]]:
        """Of each latent, what clusters are made of."""
        found = {f"autocorrelation_{lag}": correlation[lag - 1] for lag in FEW_LAGS if lag <= len(correlation)}
        found |= {
            "log_density": (firing.heads[0] / tokens).log(),
            "log_lifetime": self._lifetimes.mean.log(),
            "boundary_response": self._turnover.response(firing.differences[1].round()),
            "position_slope": self._positions.slopes(tokens, mean, variance),
        }
        return {name: values.cpu().numpy() for name, values in found.items()}
