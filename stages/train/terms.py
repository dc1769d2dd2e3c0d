"""Loss terms beside reconstruction and L1: Matryoshka levels, contrast of adjacent tokens, separation of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    codes: Codes, segments: Int[Tensor, "batch seq"], row: ContrastRow, d_sae: int
) -> tuple[Float[Tensor, ""], int]:
    """Symmetric InfoNCE between tokens and the ones before them, and the number of pairs.

    T-SAE (Bhalla et al. 2025, arXiv 2511.05541), section 3: among all pairs of the batch each token should find its
    predecessor, and each predecessor its token. Temperature 1. A window's token is also the predecessor of the next:
    among the candidates for its own predecessor it is left out, or, as nothing is more like a token than itself, no
    pair could be told; the paper's pairs are shuffled and do not meet. Similarities are a decoding of the tokens'
    codes with their predecessors' codes for rows, so sparse codes never meet as dense ones.

    Raises:
        Problem: no two adjacent tokens share a document.
    """
    adjacent = ((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)).flatten()
    n_pairs = int(adjacent.sum())
    if n_pairs == 0:
        raise Problem(
            "The contrastive term has weight but saw no pairs in a batch.",
            expected="two adjacent tokens of one document",
            found=f"{segments.shape[0]} windows of {segments.shape[1]} tokens without such a pair",
            do="harvest longer documents",
        )
    width, position = width_of(row.share, d_sae), torch.arange(segments.shape[1], device=segments.device)
    now, before = (
        _comparable(codes.narrowed(width, wanted.expand_as(segments)), row)
        for wanted in (position > 0, position < len(position) - 1)
    )
    similarities = now.decode(before.dense().T.contiguous(), torch.float32)
    ends_row = torch.arange(1, len(adjacent), device=adjacent.device) % (segments.shape[1] - 1) == 0
    return _SymmetricCrossEntropy.apply(similarities, adjacent, ~ends_row), n_pairs


def _comparable(codes: Codes, row: ContrastRow) -> Codes:
    """Codes whose inner products are the row's similarity."""
    if row.similarity == "cosine":
        return codes.scaled(codes.squares().clamp(min=1e-16).rsqrt())
    return codes.scaled(torch.full_like(codes.total(), row.scale))


class _SymmetricCrossEntropy(torch.autograd.Function):
    """Mean cross entropies of the rows and of the columns of a square matrix whose diagonal is right, added up.

    Where `itself` is true, the entry right of the diagonal is a token beside itself, and is left out. That and
    entries of what is no pair count as exp(-inf) = 0 rather than being cut out: rows of a length that is no multiple of
    16 take operations several times as long.
    """

    @staticmethod
    def forward(ctx: Any, similarities: Tensor, pairs: Tensor, itself: Tensor) -> Tensor:
        logits = similarities.masked_fill(~pairs, -torch.inf).masked_fill_(~pairs.unsqueeze(1), -torch.inf)
        logits.diagonal(1).masked_fill_(itself, -torch.inf)
        rows = logits.logsumexp(1, keepdim=True).masked_fill_(~pairs.unsqueeze(1), 0.0)
        columns = logits.logsumexp(0, keepdim=True).masked_fill_(~pairs, 0.0)
        ctx.save_for_backward(logits, rows, columns, pairs)
        return (rows.sum() + columns.sum() - 2 * logits.diagonal()[pairs].sum()) / pairs.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, rows, columns, pairs = ctx.saved_tensors
        slope = (logits - rows).exp_().add_((logits - columns).exp_())
        slope.diagonal().sub_(2 * pairs)
        return slope.mul_(gradients[0] / pairs.sum()), None, None


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
