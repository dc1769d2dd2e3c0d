"""What a harvest would cost, before it is begun."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.harvest.config import HarvestConfig
from stages.harvest.harvest import bytes_per_token
from stages.harvest.plan import decide
from stages.harvest.sequences import packed
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.runner import LayerRunner
from store.files import check_disk, files_below
from store.progress import SILENT, Progress


@dataclass(frozen=True)
class Estimate:
    """The plan that `--dry-run` prints."""

    folder: Path
    """Where the store would lie."""

    sequences: int
    """Rows of the store."""

    tokens: int
    """Positions, BOS and padding included."""

    bytes: int
    """On disk."""

    tokens_per_second: float
    """Measured now, on one batch in eager mode after another that warms up; compiled code is faster."""

    compiled: bool
    """Whether the harvest would compile the model."""

    compute_dtype: str
    """dtype of the forward pass."""

    workers: int | None
    """Processes that would share the work; None for a harvest by one."""

    threads: int
    """CPU threads of torch in each process."""

    def facts(self) -> dict[str, object]:
        """Names and values for a person."""
        minutes = self.tokens / self.tokens_per_second / 60
        return {
            "store": self.folder,
            "sequences": f"{self.sequences:,}",
            "tokens": f"{self.tokens:,}",
            "on disk": f"{self.bytes / 1e9:.2f} GB",
            "forward pass": f"{self.compute_dtype}, {'compiled' if self.compiled else 'eager'}",
            **({"workers": f"{self.workers}, CPU threads in each: {self.threads}"} if self.workers else {}),
            "estimated time": f"{minutes:.0f} min at {self.tokens_per_second:,.0f} tokens/s"
            + (" (measured eagerly)" if self.compiled else ""),
        }


def estimate(
    folder: Path,
    config: HarvestConfig,
    model: ModelConfig,
    text: CorpusConfig,
    crew: tuple[int, int] | None = None,
    progress: Progress = SILENT,
) -> Estimate:
    """Tokenise as the harvest would (a `tokens` limit is taken at its word), and time a forward pass.

    `crew` is how many workers would share it and the threads of each, taken to be as fast as this process is.

    Raises:
        Problem: as `harvest` would: wrong model, corpus or layer, too little disk.
    """
    lm = load(model, progress)
    if text.tokens is None:
        sequences = sum(len(block.tokens) for block in packed(lm, text, config))
    else:
        sequences = -(-text.tokens // config.context)
    tokens = sequences * config.context
    size = tokens * bytes_per_token(config, lm.d_model)
    there = sum(path.lstat().st_size for path in files_below(folder))  # as it stays, or goes before
    check_disk(folder, size - there)
    workers, threads = crew or (None, None)
    plan, _ = decide(config, lm, tokens, threads)
    torch.set_num_threads(plan.threads)
    rate = _rate(lm, config) * (workers or 1)
    return Estimate(
        folder, sequences, tokens, size, rate, plan.compiled, plan.compute_dtype, workers=workers, threads=plan.threads
    )


def _rate(lm: LanguageModel, config: HarvestConfig) -> float:
    """Tokens/s of the eager forward pass."""
    runner = LayerRunner(lm, config.layer_list, compile=False)
    block = torch.full((config.batch_rows, config.context), lm.bos_id)
    runner(block)
    begun = time.monotonic()
    runner(block)
    return block.numel() / (time.monotonic() - begun)
