"""Loss terms beside reconstruction and L1: Matryoshka levels, contrast of adjacent tokens, separation of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.sae.codes import Codes
from stages.sae.model import SAE
from stages.sae.objective_row import ContrastRow, SeparationRow, spans_of, width_of
from stages.train.randomness import generator_at
from store.problem import Problem


def level_errors(
    x: Float[Tensor, "batch seq d_in"], codes: Codes, sae: SAE, widths: Sequence[int]
) -> list[Float[Tensor, "batch seq d_in"]]:
    """What the first latents up to each level leave of the inputs (Bussmann et al. 2025, arXiv 2503.17547, eq. 6).

    Each level adds its own latents to the reconstruction of the one before, so all together cost one sparse decoding.
    """
    error, errors = x - sae.b_dec, []
    for first, last in spans_of(widths):
        error = error - codes.between(first, last).decode(sae.W_dec, sae.products)
        errors.append(error)
    return errors


def contrast(
    codes: Float[Tensor, "batch seq d_sae"], segments: Int[Tensor, "batch seq"], row: ContrastRow
) -> tuple[Float[Tensor, ""], int]:
    """Symmetric InfoNCE between tokens and the ones before them, and the number of pairs.

    T-SAE (Bhalla et al. 2025, arXiv 2511.05541), section 3: among all pairs of the batch each token should find its
    predecessor, and each predecessor its token. Temperature 1.

    Raises:
        Problem: no two adjacent tokens share a document.
    """
    adjacent = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
    split = codes[..., : width_of(row.share, codes.shape[-1])]
    now, before = split[:, 1:][adjacent], split[:, :-1][adjacent]
    if len(now) == 0:
        raise Problem(
            "The contrastive term has weight but saw no pairs in a batch.",
            expected="two adjacent tokens of one document",
            found=f"{segments.shape[0]} windows of {segments.shape[1]} tokens without such a pair",
            do="harvest longer documents",
        )
    if row.similarity == "cosine":
        now, before = (F.normalize(part, dim=-1, eps=1e-8) for part in (now, before))
    else:
        now, before = now * row.scale, before * row.scale
    logits = now @ before.T
    own = torch.arange(len(now), device=codes.device)
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own), len(now)


def separation(W_dec: Float[Tensor, "d_sae d_in"], row: SeparationRow, seed: int, step: int) -> Float[Tensor, ""]:
    """The mean of `relu(cosine)^2` over pairs of rows drawn for the step.

    003 penalises the cosine similarity of feature vectors; all pairs would cost as much as a decoding.
    """
    generator = generator_at(seed, step, "separation")
    drawn = torch.randperm(len(W_dec), generator=generator)[: row.sampled].to(W_dec.device)
    rows = F.normalize(W_dec[drawn], dim=-1)
    cosines = (rows @ rows.T).relu().square()
    n = len(drawn)
    return (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))
