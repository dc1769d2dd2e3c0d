"""How codes change from one token to the next: active sets, magnitudes, smoothness, persistence."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.bootstrap import Ratio
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.lagged import LaggedSums
from stages.evaluate.temporal.segments import Segments


class FeatureStability:
    """FSM over adjacent tokens of one document."""

    def __init__(self, device: torch.device) -> None:
        self.support = Ratio(device)
        """Mean Jaccard index of the active sets of adjacent tokens, where not both are empty."""
        self.change = Ratio(device)
        """Mean |h_{t+1} - h_t| / (|h_{t+1}| + |h_t|) over adjacent tokens and latents that are active at both. Codes
        that are partly predicted have a sign; where both are 0 there is no change."""

    def add(self, h: Float[Tensor, "n d"], firings: Firings, segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        shared = firings.shared * segments.adjacent
        union = (firings.size[1:] + firings.size[:-1] - shared) * segments.adjacent
        index = shared.double() / union.clamp(min=1)
        self.support.add(segments.by_first(index), segments.by_first(union > 0), segments.draws)
        latents, tokens = firings.repeated
        earlier, later = h[tokens, latents], h[tokens + 1, latents]
        change = ((later - earlier).abs() / (later.abs() + earlier.abs())).double()
        changes = index.new_zeros(len(index)).index_add_(0, tokens, change.where(change.isfinite(), 0))
        changes *= segments.adjacent
        self.change.add(segments.by_first(changes), segments.by_first(shared), segments.draws)


class Smoothness:
    """Activation smoothness of the T-SAE paper (arXiv 2511.05541, `lipschitz_cont` in its code): lower is smoother.

    In a sequence, for each latent active in it, the largest |h_t - h_{t-1}| / ||x_t - x_{t-1}||; the mean of these,
    then the mean over sequences. A sequence is a document's tokens in one row, two or more. A step of length 0
    counts as no change.
    """

    def __init__(self, device: torch.device) -> None:
        self.mean = Ratio(device)
        """Over sequences."""

    def add(
        self, h: Float[Tensor, "n d"], active: Bool[Tensor, "n d"], steps: Float[Tensor, " n-1"], segments: Segments
    ) -> None:
        """Count the kept tokens of one batch; `steps` are the distances between inputs of adjacent tokens."""
        rates = (h[1:] - h[:-1]).abs_().mul_(steps.reciprocal().where(steps > 0, 0)[:, None])
        means = h.new_full((len(segments.spans),), torch.nan, dtype=torch.float64)
        for run, (start, stop) in enumerate(segments.spans):
            if stop - start > 1:
                present = active[start:stop].any(dim=0)
                means[run] = rates[start : stop - 1].amax(dim=0)[present].double().mean()
        self.mean.add(means.nan_to_num(), means.isfinite(), segments.draws)


def persistence(active: LaggedSums, pairs: Int[np.ndarray, " context"], lag: int) -> float:
    """Mean over latents of P(a_{t+lag} = 1 | a_t = 1) - P(a_{t+lag} = 1 | a_t = 0), a two-state chain's lambda^lag.

    A latent for which a condition never holds does not count.
    """
    on, later, both = active.heads[lag], active.tails[lag], active.products[lag]
    return float((both / on - (later - both) / (pairs[lag] - on)).nan_to_num(torch.nan, torch.nan, torch.nan).nanmean())
