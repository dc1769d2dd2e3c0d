"""From rows of the table to SAEs."""

from __future__ import annotations

from stages.sae.architecture import SparsifierRow
from stages.sae.model import SAE
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from stages.sae.threshold import BatchTopK, JumpReLU
from stages.sae.variant import Variant


def make_sparsifier(row: SparsifierRow, k: int, d_sae: int) -> Sparsifier:
    """The sparsifier of a row of the table, with the k of the profile."""
    match row.kind:
        case "relu":
            return ReLU()
        case "topk":
            return TopK(k)
        case "batchtopk":
            return BatchTopK(k)
        case "jumprelu":
            assert row.threshold is not None
            return JumpReLU(d_sae, row.threshold)


def make_sae(row: Variant, d_in: int, d_sae: int, k: int, context: int, seed: int) -> SAE:
    """An SAE as a variant begins to train it, but for what it measures on its first batch (`SAE.calibrate`)."""
    sae = SAE(d_in, d_sae, make_sparsifier(row.sparsifier, k, d_sae), row.parts, context)
    sae.initialise(seed, row.initialisation)
    return sae
