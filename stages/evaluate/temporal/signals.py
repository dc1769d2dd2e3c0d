"""The signals whose temporal metrics are measured: codes and activations, in order and permuted within documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.temporal.consistency import Lags
from stages.evaluate.temporal.measure import Measure, Meter
from stages.evaluate.temporal.patterns import Crossed
from stages.evaluate.temporal.segments import Segments
from stages.evaluate.temporal.sentences import SentenceEnds
from stages.sae.model import SAE
from stages.sae.objective_row import spans_of
from store import ActivationStore
from store.pairs import permutation_within_documents

MIN_FIRINGS = 10
"""Firings that a latent needs, on the windows as they are, to be counted."""
PERMUTATION_SEED = 0
"""Of the permutations, with the numbers of a batch's rows: the same for every SAE."""

CODES = ("codes", "codes_inputs_permuted", "codes_permuted")
"""Measures of a trained SAE."""
UNTRAINED = ("untrained", "untrained_inputs_permuted")
"""Measures of an untrained one."""
ACTIVATIONS = ("activations", "activations_permuted")
"""Measures without an SAE."""


class Batch(NamedTuple):
    """Rows of a store, in their order and permuted within documents."""

    x: Float[Tensor, "batch seq d"]
    """Raw activations."""
    permuted: Float[Tensor, "batch seq d"]
    """The same, permuted."""
    document: Int[Tensor, "batch seq"]
    """Documents of both."""
    segments: Segments
    """Where they lie."""
    order: Int[Tensor, " n"]
    """The permutation, of the kept tokens."""
    steps: Float[Tensor, " n-1"]
    """Distance of every kept token from the next."""
    permuted_steps: Float[Tensor, " n-1"]
    """The same after the permutation."""

    @classmethod
    def read(
        cls,
        store: ActivationStore,
        layer: int,
        rows: np.ndarray,
        device: torch.device,
        sentence_ends: SentenceEnds | None = None,
    ) -> Batch:
        """Read rows; the permutation depends on which they are and on nothing else."""
        document = store.document(rows)
        x = store.read(layer, rows).to(device).float()
        rng = np.random.default_rng([PERMUTATION_SEED, *rows.tolist()])
        permutation = permutation_within_documents(document, rng)
        segments = Segments(document, device, sentence_ends(store.tokens(rows)) if sentence_ends else None)
        order = segments.order(permutation)
        tokens = segments.kept(x)
        index = torch.as_tensor(permutation, device=device)[..., None].expand_as(x)
        documents = torch.as_tensor(document, device=device)
        return cls(x, x.gather(1, index), documents, segments, order, _steps(tokens), _steps(tokens[order]))


def _steps(tokens: Float[Tensor, "n d"]) -> Float[Tensor, " n-1"]:
    return (tokens[1:] - tokens[:-1]).norm(dim=-1)


class CodeMeters:
    """The codes of one SAE: of the inputs in order, of permuted inputs, and (where asked for) permuted themselves.

    All count the same latents, so that their difference is not one of selection. Permuted codes take their
    inputs along: smoothness divides by the distance between the inputs that the codes came from. For an SAE of single
    tokens both permutations are one, and are measured once.
    """

    def __init__(
        self,
        names: Sequence[str],
        sae: SAE,
        firings: Float[Tensor, " d_sae"],
        lags: Lags,
        levels: Sequence[int] = (),
    ) -> None:
        """`levels` are the latents that each Matryoshka level uses."""
        self._sae = sae
        device = sae.W_dec.device
        counts = firings >= MIN_FIRINGS
        self._counted = counts.nonzero()[:, 0].to(device)
        spans = spans_of([int(counts[:width].sum()) for width in levels])
        crossed = Crossed.of(self._counted, firings.to(device)[self._counted])
        alone = crossed._replace(correlated=False)
        kinds = [crossed, crossed, alone] if sae.row.ordered else [crossed, alone]
        self._names = names
        self._meters = [
            Meter(lags, len(self._counted), device, fires=True, levels=spans, crossed=kind)
            for _, kind in zip(names, kinds, strict=False)
        ]

    def add(self, batch: Batch) -> None:
        """Encode and count one batch."""
        in_order, *permuted = self._meters
        codes, fired = self._encode(batch.x, batch)
        in_order.add(codes, fired, batch.steps, batch.segments)
        if self._sae.row.ordered:
            permuted[0].add(*self._encode(batch.permuted, batch), batch.permuted_steps, batch.segments)
            permuted = permuted[1:]
        for meter in permuted:
            meter.add(codes[batch.order], fired[batch.order], batch.permuted_steps, batch.segments)

    def _encode(
        self, x: Float[Tensor, "batch seq d"], batch: Batch
    ) -> tuple[Float[Tensor, "n counted"], Bool[Tensor, "n counted"]]:
        """Codes, and which latents had an event: for codes that are dense by construction that is another thing."""
        codes = self._sae.encoding(x, batch.document).codes
        values, events = (
            batch.segments.kept(each.dense()).index_select(1, self._counted) for each in (codes, codes.events)
        )
        return values, events > 0

    def finish(self) -> dict[str, Measure]:
        """By name, the metrics of everything counted."""
        in_order, *permuted = [meter.finish() for meter in self._meters]
        return dict(zip(self._names, [in_order, *permuted, *permuted], strict=False))


class ActivationMeters:
    """The activations in order and permuted; all dimensions count, as always active."""

    def __init__(self, mean: Float[Tensor, " d"], lags: Lags) -> None:
        self._mean = mean.float()
        columns = torch.arange(len(mean), device=mean.device)
        in_order = Crossed.of(columns, torch.zeros_like(self._mean))
        self._meters = [
            Meter(lags, len(mean), mean.device, fires=False, crossed=crossed) for crossed in (in_order, None)
        ]

    def add(self, batch: Batch) -> None:
        """Count one batch, centred: nothing measured depends on the mean, but float32 sums lose digits to it."""
        tokens = batch.segments.kept(batch.x) - self._mean
        in_order, permuted = self._meters
        always = torch.ones_like(tokens, dtype=torch.bool)
        in_order.add(tokens, always, batch.steps, batch.segments)
        permuted.add(tokens[batch.order], always, batch.permuted_steps, batch.segments)

    def finish(self) -> dict[str, Measure]:
        """By name, the metrics of everything counted."""
        return {name: meter.finish() for name, meter in zip(ACTIVATIONS, self._meters, strict=True)}
