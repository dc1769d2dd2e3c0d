"""Batches of codes and documents for the patterns of activation, and a meter run over them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from stages.evaluate.temporal.consistency import Lags
from stages.evaluate.temporal.measure import Measure, Meter
from stages.evaluate.temporal.patterns import Crossed
from stages.evaluate.temporal.segments import Segments
from tests.evaluate.temporal.temporal_literal import kept
from tests.evaluate.temporal.test_measure import codes, packed_documents

CPU = torch.device("cpu")
D = 6


def measure_of(
    h: list[np.ndarray],
    documents: list[np.ndarray],
    ends: list[np.ndarray] | None = None,
    fires: bool = True,
    latents: torch.Tensor | None = None,
) -> Measure:
    """Run a meter over batches; pairs of all latents are looked at."""
    d = h[0].shape[-1]
    latents = torch.arange(d) if latents is None else latents
    lags = Lags.of(Segments(document, CPU) for document in documents)
    firings = torch.as_tensor(kept([batch > 0 for batch in h], documents).sum(0)).double()
    meter = Meter(lags, d, CPU, fires, crossed=Crossed.of(latents, firings))
    for i, document in enumerate(documents):
        segments = Segments(document, CPU, None if ends is None else ends[i])
        tokens = segments.kept(torch.as_tensor(h[i]))
        active = tokens > 0 if fires else torch.ones_like(tokens, dtype=torch.bool)
        meter.add(tokens, active, torch.ones(len(tokens) - 1), segments)
    return meter.finish()


class Sample:
    """Batches of packed rows with sparse sticky codes, huge at BOS and padding."""

    def __init__(self, context: int, batches: int) -> None:
        rng = np.random.default_rng(context)
        self.documents = [packed_documents(6, context, seed) for seed in range(batches)]
        self.h = [codes((6, context, D), seed) for seed in range(batches)]
        self.ends = [rng.random(document.shape) < 0.2 for document in self.documents]
        for h, document in zip(self.h, self.documents, strict=True):
            h[document < 0] = 1e6
        self.a = [(h > 0).astype(np.float64) for h in self.h]
        self.exact = [h.astype(np.float64) for h in self.h]

    def jackknife(self, estimate: Callable[[list[np.ndarray], list[np.ndarray]], float], groups: int) -> float:
        """Standard error of an estimate from firings and documents, without those of each last digit in turn."""
        left_out = []
        for group in range(groups):
            rest = [np.where(document % groups == group, -1, document) for document in self.documents]
            left_out.append(estimate(self.a, rest))
        return math.sqrt((groups - 1) * np.var(left_out))
