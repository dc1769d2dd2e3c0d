"""Which rows an evaluation uses, for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.evaluate.config import EvaluateConfig
from store.problem import Problem

ORDER_SEED = 42
"""Seed of the fixed permutation of the heldout rows; SAEBench shuffles its data with the same number."""
FEWEST_ROWS = 2
"""One for each of the two phases."""


@dataclass(frozen=True)
class Batches:
    """Disjoint batches of rows, every one of the same number of rows."""

    reconstruction: list[np.ndarray]
    """Rows of the batches that are spliced into the language model."""
    variance: list[np.ndarray]
    """Rows of the batches whose activations are encoded and decoded."""

    @property
    def batch_rows(self) -> int:
        """Rows a batch."""
        return len(self.reconstruction[0])

    @classmethod
    def divide(cls, rows: Sequence[int] | np.ndarray, config: EvaluateConfig) -> Batches:
        """Cut a fixed permutation of the heldout `rows` of a store into batches.

        The permutation keeps either phase from being one corner of a corpus that is sorted by title.
        """
        if len(rows) < FEWEST_ROWS:
            raise Problem(
                "The store has too few heldout rows to evaluate on.",
                expected=f"at least {FEWEST_ROWS} rows of heldout documents",
                found=len(rows),
                do="harvest more text, or a larger share of heldout documents",
            )
        order = np.random.Generator(np.random.PCG64(ORDER_SEED)).permutation(np.asarray(rows, dtype=np.int64))
        return cls.in_order(order, config)

    @classmethod
    def in_order(cls, rows: np.ndarray, config: EvaluateConfig) -> Batches:
        """Cut at least two `rows` into batches as they come; reconstruction takes the first ones, as in SAEBench.

        Both phases get at least one batch, so fewer rows than two batches make the batches smaller. Rows that do
        not fill a batch are left out, because SAEBench's per-batch formulas want equal batches.
        """
        size = min(config.batch_rows, len(rows) // 2)
        batches = [rows[i * size : (i + 1) * size] for i in range(len(rows) // size)]
        first = min(max(1, round(len(batches) * config.reconstruction_share)), len(batches) - 1)
        return cls(reconstruction=batches[:first], variance=batches[first:])
