"""SAEs as they are before training, the reference for what training adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.sae.files import fold
from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from stages.sae.sparsifier import Sparsifier
from store import ActivationStore
from store.progress import SILENT, Progress

SEED = 0

Kind = tuple[Sparsifier, int, int]
"""What an untrained SAE has in common with a trained one: the sparsifier, d_in and d_sae."""


def kind(sae: SAE) -> Kind:
    """SAEs of one kind share an untrained SAE."""
    return sae.sparsifier, sae.d_in, sae.d_sae


def untrained(sae: SAE, normalisation: Normalisation) -> SAE:
    """An SAE of the same kind, as training would begin with it, for raw activations."""
    fresh = SAE(sae.d_in, sae.d_sae, sae.sparsifier)
    fresh.initialise(SEED)
    return fold(fresh, normalisation).eval()


def count_firings(
    saes: Mapping[Kind, SAE],
    store: ActivationStore,
    layer: int,
    batches: Sequence[np.ndarray],
    progress: Progress = SILENT,
) -> dict[Kind, Float[Tensor, " d_sae"]]:
    """By key, at how many kept tokens each latent is above 0."""
    counts = {key: torch.zeros(sae.d_sae, dtype=torch.float64) for key, sae in saes.items()}
    progress.start("firings of untrained SAEs", len(batches), "batches")
    for rows in batches:
        document = torch.as_tensor(store.document(rows))
        x = store.read(layer, rows).float()
        for key, sae in saes.items():
            device = sae.W_dec.device
            codes = sae.encode(x.to(device), segments=document.to(device))
            counts[key] += (codes[document.to(device) >= 0] > 0).sum(dim=0).cpu()
        progress.advance(1)
    return counts
