"""From rows of the table to SAEs."""

from __future__ import annotations

from dataclasses import dataclass

from stages.sae.architecture import PartsRow, SparsifierRow
from stages.sae.model import SAE, Initialisation
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


@dataclass(frozen=True)
class Blueprint:
    """Everything that decides an SAE before training, but for the seed."""

    sparsifier: SparsifierRow
    """How pre-activations become codes."""
    parts: PartsRow
    """What stands around encoder and decoder."""
    initialisation: Initialisation
    """How weights are drawn."""
    d_in: int
    """Width of the activations."""
    d_sae: int
    """Latents."""
    k: int
    """Latents a token may activate, for sparsifiers that fix that."""
    context: int
    """Positions in a stored row."""

    @classmethod
    def of(cls, row: Variant, d_in: int, d_sae: int, k: int, context: int) -> Blueprint:
        """The blueprint of a variant at given sizes."""
        return cls(row.sparsifier, row.parts, row.initialisation, d_in, d_sae, k, context)

    def make(self, seed: int) -> SAE:
        """An SAE as training begins with it, but for what it measures on its first batch (`SAE.calibrate`)."""
        sparsifier = make_sparsifier(self.sparsifier, self.k, self.d_sae)
        sae = SAE(self.d_in, self.d_sae, sparsifier, self.parts, self.context)
        sae.initialise(seed, self.initialisation)
        return sae
