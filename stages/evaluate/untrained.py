"""SAEs as they are before training, the reference for what training adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.sae.build import Blueprint
from stages.sae.files import for_raw
from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from store import ActivationStore
from store.progress import SILENT, Progress

SEED = 0
Key = TypeVar("Key")


@torch.no_grad()
def untrained(
    blueprint: Blueprint,
    normalisation: Normalisation,
    raw: Float[Tensor, "batch seq d_in"],
    document: Int[Tensor, "batch seq"],
) -> SAE:
    """An SAE as training would begin with it, for raw activations. What training measures on its first batch
    (thresholds, statistics) is measured on `raw`."""
    fresh = blueprint.make(SEED).to(raw.device)
    x = normalisation.apply(raw, document >= 0)
    fresh.calibrate(x, document)
    fresh.encode(x, document)
    fresh.follow()
    return for_raw(fresh.eval(), normalisation).to(raw.device)


def references(
    blueprints: Iterable[Blueprint], store: ActivationStore, layer: int, rows: np.ndarray, device: torch.device
) -> dict[Blueprint, SAE]:
    """The untrained SAE of each blueprint; what training measures first is measured on `rows`."""
    normalisation = normalisation_of(store, layer)
    raw = store.read(layer, rows).to(device).float()
    document = torch.as_tensor(store.document(rows)).to(device)
    return {each: untrained(each, normalisation, raw, document) for each in set(blueprints)}


def normalisation_of(store: ActivationStore, layer: int) -> Normalisation:
    """That of the training split of a layer."""
    statistics = store.statistics(layer)
    return Normalisation(torch.tensor(statistics.mean), statistics.scale)


def count_firings(
    saes: Mapping[Key, SAE],
    store: ActivationStore,
    layer: int,
    batches: Sequence[np.ndarray],
    progress: Progress = SILENT,
) -> dict[Key, Float[Tensor, " d_sae"]]:
    """By key, at how many kept tokens each latent fires."""
    counts = {key: torch.zeros(sae.d_sae, dtype=torch.float64) for key, sae in saes.items()}
    progress.start("firings of untrained SAEs", len(batches), "batches")
    for rows in batches:
        document = torch.as_tensor(store.document(rows))
        x = store.read(layer, rows).float()
        for key, sae in saes.items():
            device = sae.W_dec.device
            events = sae.encoding(x.to(device), segments=document.to(device)).codes.events
            counts[key] += events.firings(document.to(device) >= 0).cpu()
        progress.advance(1)
    return counts
