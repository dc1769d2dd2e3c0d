"""How long latents stay active: runs of consecutive active tokens, beside what chance would give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.evaluate.standard_error import jackknife_standard_error
from stages.evaluate.temporal.segments import Segments
from stages.sae.products import Selection

HORIZON = 64
"""Tokens up to which lifetimes are measured: about the longest runs of which documents in rows of 128 show the end."""
DECILES = 10
"""Groups of latents of rising density, of equal size."""


@dataclass(frozen=True)
class Lifetime:
    """Lifetimes of the latents of one signal, in tokens. All are medians over latents: a few always active ones
    would decide a mean. NaN where a number does not exist."""

    tokens: float
    """Mean length of a run up to `HORIZON`, by Kaplan and Meier."""
    ratio: float
    """The same over what independent firings of the same density would give: 1 where order does not matter."""
    ratio_se: float
    """Its jackknife standard error."""
    geometric: float
    """1 / (1 - P(1 -> 1)): the mean run of a two-state chain, without a horizon."""
    deciles: list[dict[str, float]]
    """The same, density and integrated autocorrelation time, by deciles of density: dense latents have long runs by
    chance."""


class Lifetimes:
    """Counts of the maximal runs of active tokens within documents, by length and latent, for every group of batches.

    A run that a document's last token in its row cuts off is censored: it lived at least so long. A run that is
    there at the first token is timed from it: exact where the document begins there or the latent is a chain
    without memory, the remaining life otherwise. Left out, latents that stay on for whole documents would have no
    lifetime at all; censored at their end, ends would be missing from the risk and every lifetime come out too long.
    """

    def __init__(self, d: int, context: int, device: torch.device) -> None:
        self.horizon = min(HORIZON, context - 1)
        self._shape = (2, self.horizon, d)
        self._runs = torch.zeros(self._shape, dtype=torch.int32, device=device)
        self._firings = torch.zeros(d, dtype=torch.int64, device=device)
        self._groups: list[tuple[Tensor, Tensor]] = []

    def add(self, chosen: Selection, segments: Segments) -> None:
        """Count the kept tokens of one batch; `chosen` are the active latents of each."""
        runs = Runs.of(chosen, segments)
        lengths = runs.lengths.clamp(max=self.horizon) - 1
        _, horizon, d = self._shape
        places = (runs.censored * horizon + lengths) * d + runs.latents
        self._runs += torch.bincount(places, minlength=self._runs.numel()).view(self._shape)
        self._firings += torch.bincount(chosen.latents, minlength=d)

    def end_group(self) -> None:
        """Tell the jackknife that a group of batches is complete."""
        self._groups.append((self._runs, self._firings))
        self._runs, self._firings = torch.zeros_like(self._runs), torch.zeros_like(self._firings)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """By latent, the mean length of its runs up to the horizon."""
        return restricted_mean(sum_of([runs for runs, _ in self._groups]))

    def ratios(self, tokens: Int[Tensor, " groups"], left_out: int | None = None) -> Float[Tensor, " d"]:
        """By latent, the mean over that of independent firings, without one of the groups."""
        kept = [i for i in range(len(self._groups)) if i != left_out]
        density = sum_of([self._groups[i][1] for i in kept]).double() / tokens[kept].sum()
        return restricted_mean(sum_of([self._groups[i][0] for i in kept])) / by_chance(density, self.horizon)

    def finish(
        self,
        tokens: Int[Tensor, " groups"],
        staying: Float[Tensor, " d"],
        integrated: Float[Tensor, " d"],
    ) -> Lifetime:
        """The lifetimes of everything counted: `tokens` are the kept ones of each group, `staying` each latent's
        P(1 -> 1) and `integrated` its integrated autocorrelation time."""
        groups = range(len(self._groups))
        left_out = [float(self.ratios(tokens, i).nanmedian()) for i in groups] if len(groups) > 1 else []
        columns = {
            "density": sum_of([firings for _, firings in self._groups]).double() / tokens.sum(),
            "tokens": self.mean,
            "ratio": self.ratios(tokens),
            "geometric": 1 / (1 - staying),
            "integrated_time": integrated,
        }
        by_density = columns["density"].argsort(stable=True).tensor_split(DECILES)
        return Lifetime(
            **{name: float(columns[name].nanmedian()) for name in ("tokens", "ratio", "geometric")},
            ratio_se=jackknife_standard_error(left_out),
            deciles=[
                {name: float(values[latents].nanmedian()) for name, values in columns.items()}
                for latents in by_density
                if len(latents)
            ],
        )


@dataclass(frozen=True)
class Runs:
    """Maximal runs of active tokens within documents, those of one latent after those of another."""

    latents: Int[Tensor, " runs"]
    """Which latent."""
    lengths: Int[Tensor, " runs"]
    """How many tokens."""
    censored: Int[Tensor, " runs"]
    """1 where the run reaches the last token of its document in the row, else 0."""

    @classmethod
    def of(cls, chosen: Selection, segments: Segments) -> Runs:
        """The runs of one batch."""
        n = len(segments.before)
        places = (chosen.latents * n + chosen.tokens).sort().values
        tokens = places % n
        begins = segments.before[tokens] == 0
        begins |= places.diff(prepend=places.new_full((1,), -2)) > 1
        first = begins.nonzero()[:, 0]
        behind = torch.cat([first[1:], first.new_full((1,), len(places))])[: len(first)]
        return cls(places[first] // n, behind - first, (segments.after[tokens[behind - 1]] == 0).long())


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


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Their sum, int64."""
    return torch.stack(tensors).sum(0, dtype=torch.int64)


NO_LIFETIME = Lifetime(math.nan, math.nan, math.nan, math.nan, [])
"""Where too few pairs of tokens are adjacent within a document."""
