"""How long latents stay active: runs of consecutive active tokens, beside what chance would give."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.evaluate.standard_error import jackknife
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.segments import Segments

HORIZON = 64
"""Tokens up to which lifetimes are measured: about the longest runs of which documents in rows of 128 show the end."""
DECILES = 10
"""Groups of latents of rising density, of equal size."""
GROUPS = 10
"""Groups of documents that the jackknife leaves out in turn: those of one last digit of their numbers."""


@dataclass(frozen=True)
class Lifetime:
    """Lifetimes of the latents of one signal, in tokens. All are medians over latents: a few always active ones
    would decide a mean. NaN where a number does not exist."""

    tokens: float
    """Mean length of a run up to `HORIZON`, by Kaplan and Meier."""
    ratio: float
    """The same over what independent firings of the same density would give: 1 where order does not matter."""
    geometric: float
    """1 / (1 - P(1 -> 1)): the mean run of a two-state chain, without a horizon."""
    deciles: list[dict[str, float]]
    """The same, density and integrated autocorrelation time, by deciles of density: dense latents have long runs by
    chance."""
    replicates: dict[str, Float[np.ndarray, " groups"]] = field(compare=False)
    """Of the ratio, by its name in summaries: those of the jackknife over groups of documents."""


class Lifetimes:
    """Counts of the maximal runs of active tokens within documents, by length and latent, for every group of documents.

    A run that a document's last token in its row cuts off is censored: it lived at least so long. A run that is
    there at the first token is timed from it: exact where the document begins there or the latent is a chain
    without memory, the remaining life otherwise. Left out, latents that stay on for whole documents would have no
    lifetime at all; censored at their end, ends would be missing from the risk and every lifetime come out too long.

    The standard error of the ratio is that of the delete-a-group jackknife over `GROUPS` groups of documents, which are
    the same for every SAE of a store. The bootstrap would need these counts for each of its replicates. Of ten groups
    an error has nine degrees of freedom: intervals take Student's t (2.26 errors to either side) in place of 1.96.
    """

    def __init__(self, d: int, context: int, device: torch.device) -> None:
        self.horizon = min(HORIZON, context - 1)
        self._runs = torch.zeros(GROUPS, 2, self.horizon, d, dtype=torch.int32, device=device)
        self._firings = torch.zeros(GROUPS, d, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(GROUPS, dtype=torch.int64, device=device)

    def add(self, firings: Firings, segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        group = segments.by_token(segments.documents % GROUPS)
        runs, chosen = Runs.of(firings, segments), firings.chosen
        lengths = runs.lengths.clamp(max=self.horizon) - 1
        d = self._firings.shape[1]
        _count(self._runs, ((group[runs.ends] * 2 + runs.censored) * self.horizon + lengths) * d + runs.latents)
        _count(self._firings, group[chosen.tokens] * d + chosen.latents)
        _count(self._tokens, group)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """By latent, the mean length of its runs up to the horizon."""
        return restricted_mean(self._runs.sum(dim=0))

    def _ratio(self, left_out: int | None = None) -> Float[Tensor, " d"]:
        """By latent, the mean over that of independent firings, without one of the groups."""
        kept = [group for group in range(GROUPS) if group != left_out]
        runs, firings, tokens = (each[kept].sum(dim=0) for each in (self._runs, self._firings, self._tokens))
        return restricted_mean(runs) / by_chance(firings.double() / tokens, self.horizon)

    def finish(self, staying: Float[Tensor, " d"], integrated: Float[Tensor, " d"]) -> Lifetime:
        """The lifetimes of everything counted: `staying` is each latent's P(1 -> 1) and `integrated` its integrated
        autocorrelation time."""
        columns = {
            "density": self._firings.sum(dim=0).double() / self._tokens.sum(),
            "tokens": self.mean,
            "ratio": self._ratio(),
            "geometric": 1 / (1 - staying),
            "integrated_time": integrated,
        }
        medians = {name: float(columns[name].nanmedian()) for name in ("tokens", "ratio", "geometric")}
        groups = self._tokens.nonzero()[:, 0].tolist()
        left_out = [float(self._ratio(group).nanmedian()) for group in groups]
        by_density = columns["density"].argsort(stable=True).tensor_split(DECILES)
        return Lifetime(
            **medians,
            deciles=[
                {name: float(values[latents].nanmedian()) for name, values in columns.items()}
                for latents in by_density
                if len(latents)
            ],
            replicates={"lifetime_ratio": jackknife(medians["ratio"], left_out)},
        )


@dataclass(frozen=True)
class Runs:
    """Maximal runs of active tokens within documents, those of one latent after those of another."""

    latents: Int[Tensor, " runs"]
    """Which latent."""
    ends: Int[Tensor, " runs"]
    """The last token."""
    lengths: Int[Tensor, " runs"]
    """How many tokens."""
    censored: Int[Tensor, " runs"]
    """1 where the run reaches the last token of its document in the row, else 0."""

    @classmethod
    def of(cls, firings: Firings, segments: Segments) -> Runs:
        """The runs of one batch."""
        latents, tokens = firings.by_latent
        begins = segments.before[tokens] == 0
        begins |= latents.diff(prepend=latents.new_full((1,), -1)) != 0
        begins |= tokens.diff(prepend=tokens.new_full((1,), -1)) != 1
        first = begins.nonzero()[:, 0]
        behind = torch.cat([first[1:], first.new_full((1,), len(tokens))])[: len(first)]
        ends = tokens[behind - 1]
        return cls(latents[first], ends, behind - first, (segments.after[ends] == 0).long())


def restricted_mean(runs: Int[Tensor, "2 horizon d"]) -> Float[Tensor, " d"]:
    """Mean lifetime up to the horizon of Kaplan and Meier's (1958) survival function: the sum of P(length > l).

    Counts by length from 1, of runs that ended and of censored ones. A run that is cut at its l-th token was not seen
    to outlive it, so it is at risk up to l - 1. Beyond the longest run of a latent its survival stays what it was.
    NaN without runs at risk.
    """
    at_risk = runs.sum(0).flip(0).cumsum(0).flip(0) - runs[1]
    survival = (1 - runs[0].double() / at_risk.clamp(min=1)).cumprod(0)
    return (1 + survival[:-1].sum(0)).where(at_risk[0] > 0, torch.nan)


def by_chance(density: Float[Tensor, " d"], horizon: int) -> Float[Tensor, " d"]:
    """Mean length up to the horizon of the runs of independent firings: 1 / (1 - p), were there no horizon."""
    return (density[:, None] ** torch.arange(horizon, device=density.device)).sum(1)


def integrated_time(correlation: Float[Tensor, "lags d"]) -> Float[Tensor, " d"]:
    """Integrated autocorrelation time 1 + 2 sum R(lag), summed until R is first not positive or not known.

    Over how many tokens a signal repeats itself: 1 for independent tokens, (1 + r) / (1 - r) for R(lag) = r^lag.
    NaN for a constant.
    """
    positive = (correlation > 0).long().cumprod(0).bool()
    return (1 + 2 * correlation.where(positive, 0).sum(0)).where(correlation[0].isfinite(), torch.nan)


def _count(counts: Int[Tensor, "*counts"], places: Int[Tensor, " n"]) -> None:
    """Add 1 at each of some places of the flattened counts."""
    counts.view(-1).scatter_add_(0, places, counts.new_ones(1).expand(len(places)))


NO_LIFETIME = Lifetime(math.nan, math.nan, math.nan, [], {"lifetime_ratio": np.full(GROUPS, math.nan)})
"""Where too few pairs of tokens are adjacent within a document."""
