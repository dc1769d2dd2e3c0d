"""What depends on where in its row a token stands: autocorrelation, correlation across positions, and trend."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from stages.evaluate.temporal import consistency
from stages.evaluate.temporal.lagged import FEW_LAGS
from stages.evaluate.temporal.segments import Segments

BANDS = 4
"""Parts of a row, of equal length."""
POSITIONS = 8
"""Positions, evenly spaced from 1 on (0 is BOS), between which codes are correlated."""
MIN_ROWS = 100
"""Rows with one document at two positions that their correlation needs."""


@dataclass(frozen=True)
class Positions:
    """What depends on the position in the row. NaN where a number does not exist."""

    bands: list[list[int]]
    """First position of every band and the one behind its last."""
    autocorrelation: dict[str, list[float]]
    """By lag, for each band the mean autocorrelation over latents, with the corpus's mean and variance."""
    places: list[int]
    """The positions that are correlated with each other."""
    correlation: list[list[float]]
    """Between two of them, the mean over latents of Pearson's correlation across rows."""
    correlation_mean: float
    """Mean of what is off the diagonal."""
    slope: float
    """Mean over latents of the absolute correlation with the position: a regression on it, in standard deviations."""


class BandSums:
    """Sums over the pairs (t - lag, t) of one document by the band of the row that t is in, for a few lags.

    The map of the temporal feature analysis (arXiv 2511.01836) has a column for each position t and a row for each
    lag. Heldout text has too few pairs for every cell, and latents rarely care for single positions: bands of t and
    the lags that persistence has keep what the map is for, whether context builds up along the row, in a few
    numbers a latent. Means and variances are the corpus's, so the bands' mean, weighted by their pairs, is the
    autocorrelation at that lag: its stationary surrogate.
    """

    def __init__(self, context: int, d: int, device: torch.device) -> None:
        self.lags = [lag for lag in FEW_LAGS if lag < context]
        self._of_position = torch.arange(context, device=device) * BANDS // context
        limits = [-(-context * i // BANDS) for i in range(BANDS + 1)]
        self.limits = [[first, last] for first, last in pairwise(limits)]
        self.pairs = torch.zeros(len(self.lags), BANDS, dtype=torch.int64, device=device)
        self._products = torch.zeros(len(self.lags), BANDS, d, dtype=torch.float64, device=device)
        self._ends = torch.zeros_like(self._products)

    def add(self, h: Float[Tensor, "n d"], segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        in_band = self._of_position[segments.position] == torch.arange(BANDS, device=h.device)[:, None]
        tails = torch.stack([in_band & (segments.before >= lag) for lag in self.lags])
        self.pairs += tails.sum(dim=2)
        tails = tails.to(h.dtype)
        in_pairs = tails.clone()
        for i, lag in enumerate(self.lags):
            in_pairs[i, :, :-lag] += tails[i, :, lag:]
            self._products[i] += tails[i, :, lag:] @ (h[:-lag] * h[lag:])
        self._ends += (in_pairs.flatten(0, 1) @ h).view(self._ends.shape)

    def autocorrelation(
        self, mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]
    ) -> Float[Tensor, "lags bands d"]:
        """NaN for a band without enough pairs, or a constant."""
        pairs = self.pairs[..., None]
        covariance = (self._products - mean * self._ends) / pairs + mean.square()
        return (covariance / variance).where(pairs >= consistency.MIN_PAIRS, torch.nan)


class PositionSums:
    """Sums over rows between positions of one document, and over tokens of code times position.

    The matrix is of every pair of `POSITIONS` positions, not of all of a row: sums for each latent and pair would
    outweigh everything else that an evaluation keeps.
    """

    def __init__(self, context: int, d: int, device: torch.device) -> None:
        spaced = torch.linspace(1, context - 1, min(POSITIONS, context - 1)).long().tolist()
        self.places: list[int] = spaced
        self.cells = list(combinations(range(len(spaced)), 2))
        self.rows = torch.zeros(len(self.cells), dtype=torch.int64, device=device)
        self._sums = torch.zeros(5, len(self.cells), d, dtype=torch.float64, device=device)
        self._position = torch.zeros(2, dtype=torch.float64, device=device)
        self._moment = torch.zeros(d, dtype=torch.float64, device=device)

    def add(self, h: Float[Tensor, "n d"], segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        position = segments.position
        centred = position - segments.context // 2  # float32 sums lose fewer digits
        self._moment += centred.to(h.dtype) @ h
        self._position += torch.stack([centred.sum(), centred.square().sum()])
        for i, (p, q) in enumerate(self.cells):
            distance = self.places[q] - self.places[p]
            second = ((position == self.places[q]) & (segments.before >= distance)).nonzero()[:, 0]
            x, y = h[second - distance], h[second]
            self.rows[i] += len(second)
            self._sums[:, i] += torch.stack([v.sum(0) for v in (x, y, x * x, y * y, x * y)])

    @property
    def correlation(self) -> Float[Tensor, "places places"]:
        """Mean over latents of Pearson's correlation across rows; latents that do not vary at a position are left
        out of its cells. NaN for a cell with too few rows."""
        x, y, xx, yy, xy = self._sums / self.rows[:, None]
        spread = consistency.variance(x, xx) * consistency.variance(y, yy)
        means = ((xy - x * y) / spread.sqrt()).nanmean(dim=1).where(self.rows >= MIN_ROWS, torch.nan)
        matrix = torch.eye(len(self.places), dtype=torch.float64, device=means.device)
        p, q = torch.tensor(self.cells, dtype=torch.int64).view(-1, 2).T
        matrix[p, q] = matrix[q, p] = means
        return matrix

    def slopes(self, tokens: int, mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """By latent, the correlation of its code with the position."""
        first, second = self._position / tokens
        return (self._moment / tokens - mean * first) / (variance * (second - first.square())).sqrt()


def positions(
    bands: BandSums,
    sums: PositionSums,
    tokens: int,
    mean: Float[Tensor, " d"],
    variance: Float[Tensor, " d"],
) -> Positions:
    """What depends on the position, given the corpus's mean and variance of each column."""
    correlation = sums.correlation
    apart = correlation[~torch.eye(len(correlation), dtype=torch.bool, device=correlation.device)]
    banded = bands.autocorrelation(mean, variance).nanmean(dim=2)
    slopes = sums.slopes(tokens, mean, variance)
    return Positions(
        bands=bands.limits,
        autocorrelation={str(lag): row.tolist() for lag, row in zip(bands.lags, banded, strict=True)},
        places=sums.places,
        correlation=correlation.tolist(),
        correlation_mean=float(apart.nanmean()),
        slope=float(slopes.abs().nanmean()) if tokens >= consistency.MIN_PAIRS else float("nan"),
    )
