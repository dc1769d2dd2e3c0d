"""What an evaluation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from store.problem import Problem


@dataclass(frozen=True)
class EvaluateConfig:
    """What an evaluation measures on."""

    batch_rows: int = 16
    """Rows (packed sequences) a batch. SAEBench's `mse` and `explained_variance_legacy` depend on it."""
    reconstruction_share: float = 0.1
    """Share of the heldout batches that go through the language model; the others measure variance."""

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise Problem("batch_rows must be at least 1.", expected=">= 1", found=self.batch_rows, usage=True)
        if not 0 < self.reconstruction_share < 1:
            raise Problem(
                "reconstruction_share must lie between 0 and 1.",
                expected="0 < share < 1",
                found=self.reconstruction_share,
                usage=True,
            )
