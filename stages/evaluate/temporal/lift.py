"""Which latents follow which from one token to the next, more often than their documents would have it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.gram import gram
from stages.evaluate.temporal.segments import Segments

FALSE_DISCOVERIES = 0.05
"""Expected share of false ones among significant edges (Benjamini and Hochberg 1995)."""
TOP_EDGES = 20
ROUNDING = 1e-4
"""Expected counts below this are rounding, of latents that share no document; the smallest is 1 / context."""


@dataclass(frozen=True)
class Edge:
    """Two latents of which the second is active after the first."""

    first: int
    """Number of the latent in the SAE."""
    second: int
    """Number of the one that follows."""
    count: int
    """Pairs of adjacent tokens at which it does."""
    expected: float
    """Mean of that count if the tokens of each document stood in random order."""
    lift: float
    """P(a_{t+1,second} = 1 | a_{t,first} = 1) / P(a_second = 1)."""
    p: float
    """Of so many or more; 0 below the smallest number."""


@dataclass(frozen=True)
class Lift:
    """Lag-1 transitions between different latents."""

    latents: int
    """Latents among which all ordered pairs were looked at."""
    tests: int
    """Pairs that share a document, which alone can follow each other."""
    edges: int
    """Of these, significantly frequent after correction for the number of tests."""
    log_lift: float
    """Mean logarithm of the lift over the significant ones; NaN without any."""
    top: list[Edge]
    """Those that random order explains least (largest Poisson deviance)."""


class LiftSums:
    """Running counts of a_{t,i} a_{t+1,j} over adjacent tokens of a document, and of their mean in random order.

    If the tokens of a document of length L stand in random order, every ordered pair of them is adjacent with
    probability 1 / L. So the mean count is (c_i c_j - c_ij) / L, with c_i the tokens at which i is active and c_ij
    those at which both are: permutation within documents in closed form. Topics are in it, since latents of one
    topic share documents; what is left is order. Rare events in many documents are nearly Poisson.
    """

    def __init__(self, latents: Int[Tensor, " d"]) -> None:
        """`latents` are the numbers of the columns in the SAE."""
        self._latents = latents
        d, device = len(latents), latents.device
        self.counts = torch.zeros(d, d, device=device)
        self.expected = torch.zeros_like(self.counts)
        self._heads = torch.zeros(d, dtype=torch.float64, device=device)
        self._firings = torch.zeros_like(self._heads)
        self._tokens = 0

    def add(self, firings: Firings, segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        active, chosen = firings.dense, firings.chosen
        followed = torch.empty_like(active)
        torch.mul(active[1:], segments.adjacent[:, None], out=followed[:-1])
        followed[-1:] = 0
        self.counts += gram(active, followed, chosen)
        lengths = (segments.before + segments.after + 1).to(active.dtype)
        starts = segments.before == 0
        totals = firings.by_run(starts.cumsum(0) - 1, len(segments.spans)).to(active.dtype)
        self.expected.addmm_(totals.T, totals / lengths[starts][:, None])
        self.expected -= gram(active, active / lengths[:, None], chosen)
        self._heads += chosen.by_latent((segments.after > 0)[chosen.tokens].double())
        self._firings += totals.sum(0)
        self._tokens += len(active)

    @property
    def lift(self) -> Float[Tensor, "d d"]:
        """P(a_{t+1,j} = 1 | a_{t,i} = 1) / P(a_j = 1); NaN for a latent that never precedes or never fires."""
        return self.counts / self._heads[:, None] / (self._firings / self._tokens)

    def finish(self) -> Lift:
        """The transitions of everything counted."""
        counts, expected = self.counts.double(), self.expected.double()
        possible = expected > ROUNDING
        possible.fill_diagonal_(False)
        frequent = (possible & (counts > expected)).nonzero()
        first, second = frequent.T
        n, mean = counts[first, second], expected[first, second]
        p = torch.special.gammainc(n, mean)
        tests = int(possible.sum())
        edges = rejected(p, tests).nonzero()[:, 0]
        lift = self.lift[first[edges], second[edges]]
        deviance = (n * (n / mean).log() - (n - mean))[edges]
        best = deviance.argsort(descending=True, stable=True)[:TOP_EDGES]
        names = self._latents[frequent[edges[best]]].tolist()
        columns = (n[edges[best]].long(), mean[edges[best]], lift[best], p[edges[best]])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return Lift(
            latents=len(self._latents),
            tests=tests,
            edges=len(edges),
            log_lift=float(lift.log().mean()) if len(edges) else math.nan,
            top=[Edge(*name, *row) for name, row in zip(names, rows, strict=True)],
        )


def rejected(p: Float[Tensor, " found"], tests: int) -> Bool[Tensor, " found"]:
    """Which hypotheses Benjamini and Hochberg's procedure rejects of `tests`; those not in `p` have p = 1."""
    ordered = p.sort().values
    limits = FALSE_DISCOVERIES * torch.arange(1, len(p) + 1, dtype=p.dtype, device=p.device) / max(tests, 1)
    passing = (ordered <= limits).nonzero()[:, 0]
    return p <= ordered[passing[-1]] if len(passing) else torch.zeros_like(p, dtype=torch.bool)
