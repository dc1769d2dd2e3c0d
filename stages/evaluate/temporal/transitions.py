"""How latents turn on and off from one token to the next, and what ends of sentences and documents do to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.bootstrap import NO_REPLICATES, Ratio
from stages.evaluate.temporal.firings import Firings
from stages.evaluate.temporal.lagged import LaggedSums
from stages.evaluate.temporal.segments import Segments

KINDS = ("all", "interior", "sentence", "document")
"""Pairs of adjacent tokens: within documents; of these, within sentences and across the ends of sentences; of two
documents in one row."""
UNCERTAIN = {
    "all": "turnover",
    "sentence": "turnover_sentence_boundary",
    "document": "turnover_document_boundary",
}
"""Of which there are replicates, and what summaries call them."""
MIN_BOUNDARIES = 50
"""Ends of sentences, or of documents, that the turnover there needs."""


@dataclass(frozen=True)
class Transitions:
    """Transitions of the latents of one signal. NaN where a number does not exist."""

    on: float
    """Median over latents of P(0 -> 1), the two-state chain's."""
    stay: float
    """Median over latents of P(1 -> 1)."""
    turnover: float
    """Mean |A_t xor A_{t+1}| / (|A_t| + |A_{t+1}|) of active sets A over adjacent tokens of a document: 0 where the
    set stays, 1 where nothing of it does."""
    turnover_interior: float
    """The same without the ends of sentences."""
    turnover_sentence_boundary: float
    """The same from the last token of a sentence to the next one."""
    turnover_document_boundary: float
    """The same from the last token of a document to the first of the next in its row."""
    response_sentence: float
    """Turnover at the ends of sentences over that of the interior: 1 where they mean nothing."""
    response_document: float
    """Turnover at the ends of documents over that of the interior."""
    replicates: dict[str, Float[np.ndarray, " replicates"]] = field(kw_only=True, compare=False)
    """Of turnovers in the bootstrap over documents, by their names here; a pair across the end of a document counts as
    often as the document that ends is drawn."""


class Turnover:
    """Running sums over adjacent tokens."""

    def __init__(self, d: int, device: torch.device) -> None:
        self._ratios = {kind: Ratio(device) for kind in KINDS}
        self._pairs = dict.fromkeys(KINDS, 0)
        self._sentence_changes = torch.zeros(d, dtype=torch.int64, device=device)
        self._document_changes = torch.zeros_like(self._sentence_changes)

    def add(self, firings: Firings, segments: Segments) -> None:
        """Count the kept tokens of one batch."""
        total = (firings.size[1:] + firings.size[:-1]).double()
        share = 1 - 2 * firings.shared / total.clamp(min=1)
        sentence, document = segments.sentence_boundary, segments.document_boundary
        masks = (segments.adjacent, segments.adjacent & ~sentence, sentence, document)
        for kind, mask in zip(KINDS, masks, strict=True):
            counted = mask & (total > 0)
            self._ratios[kind].add(segments.by_first(share * counted), segments.by_first(counted), segments.draws)
            self._pairs[kind] += int(mask.sum())
        self._sentence_changes += _changes(firings, sentence)
        self._document_changes += _changes(firings, document)

    def response(self, adjacent: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """By latent, the logarithm of how much more often than in the interior it changes at ends of sentences and
        documents; `adjacent` are its changes within documents. Half a change is added to what was and to what
        was expected, so that a latent of few firings has a small response rather than none."""
        boundaries = self._pairs["sentence"] + self._pairs["document"]
        expected = (adjacent - self._sentence_changes) * (boundaries / max(self._pairs["interior"], 1))
        return ((self._sentence_changes + self._document_changes + 0.5) / (expected + 0.5)).log()

    def finish(self, on: Float[Tensor, " d"], stay: Float[Tensor, " d"]) -> Transitions:
        """The transitions of everything counted; `on` and `stay` are P(0 -> 1) and P(1 -> 1) of each latent."""
        found = {kind: ratio for kind, ratio in self._ratios.items() if self._pairs[kind] >= MIN_BOUNDARIES}
        whole, interior, sentence, document = (found[kind].value if kind in found else math.nan for kind in KINDS)
        return Transitions(
            on=float(on.nanmedian()),
            stay=float(stay.nanmedian()),
            turnover=whole,
            turnover_interior=interior,
            turnover_sentence_boundary=sentence,
            turnover_document_boundary=document,
            response_sentence=sentence / interior if interior else math.nan,
            response_document=document / interior if interior else math.nan,
            replicates={
                name: found[kind].replicates if kind in found else NO_REPLICATES for kind, name in UNCERTAIN.items()
            },
        )


def chain(active: LaggedSums, pairs: int) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """P(0 -> 1) and P(1 -> 1) of each latent's two-state chain; NaN where the condition never holds.

    The counts are whole, so that a latent that never turns off has P(1 -> 1) = 1 and nothing beside it.
    """
    first, later, both = active.heads[1], active.tails[1], active.products[1].round()
    return (later - both) / (pairs - first), both / first


def _changes(firings: Firings, pairs: Bool[Tensor, " n-1"]) -> Int[Tensor, " d"]:
    """By latent, at how many of some pairs of a token and the next it is active at one of the two alone."""
    chosen, (latents, tokens) = firings.chosen, firings.repeated
    ends = F.pad(pairs.long(), (0, 1)) + F.pad(pairs.long(), (1, 0))
    return chosen.by_latent(ends[chosen.tokens]).index_add_(0, latents, pairs[tokens].long(), alpha=-2)


NO_TRANSITIONS = Transitions(*[math.nan] * 8, replicates=dict.fromkeys(UNCERTAIN.values(), NO_REPLICATES))
"""Where too few pairs of tokens are adjacent within a document."""
