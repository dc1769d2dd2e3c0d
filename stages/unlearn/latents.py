"""Which latents to clamp: those that fire on the text to forget and hardly on the text to keep."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int

from stages.language_model.splice import Splice
from stages.sae.model import SAE
from stages.unlearn.text import Rows
from store.progress import SILENT, Progress

DIGITS = 6
"""SAEBench keeps shares with so many digits: what fires less often than at one token in two million does not fire."""


@torch.no_grad()
def firing_shares(
    sae: SAE, splice: Splice, rows: Rows, batch_rows: int, progress: Progress = SILENT
) -> Float64[np.ndarray, " d_sae"]:
    """Share of the tokens at which each latent fires (events), BOS and padding left out."""
    counts = torch.zeros(sae.d_sae, dtype=torch.float64)
    for batch in rows.batches(batch_rows):
        segments = batch.segments.to(sae.W_dec.device)
        encoding = sae.encoding(splice.resid(batch.tokens).float(), segments=segments)
        counts += encoding.codes.events.firings(segments >= 0).cpu()
        progress.advance(1)
    shares: np.ndarray = (counts / max(1, rows.n_tokens)).numpy()
    return shares.round(DIGITS)


def select(
    forget: Float64[np.ndarray, " d_sae"], retain: Float64[np.ndarray, " d_sae"], threshold: float
) -> Int[np.ndarray, " n"]:
    """Latents whose share on retained text is below a threshold, by their share on the text to forget, largest first.

    SAEBench's `get_top_features`, ties included.
    """
    score = np.where(retain >= threshold, 0.0, forget)
    return score.argsort()[::-1][: np.count_nonzero(score)]
