"""The untrained SAE that a trained one is compared with is as sparse as it."""

from __future__ import annotations

import pytest
import torch

from stages.evaluate.subject import as_sparse
from stages.evaluate.untrained import untrained
from stages.sae.architecture import NO_PARTS, NormRow, PartsRow, SparsifierRow, ThresholdRow
from stages.sae.build import Blueprint
from stages.sae.normalisation import Normalisation

D_IN, D_SAE, K, L0 = 16, 64, 4, 9.2
ROWS = {
    "relu": (SparsifierRow("relu"), 9),
    "jumprelu": (SparsifierRow("jumprelu", ThresholdRow(0.1, 0.5)), 9),
    "topk": (SparsifierRow("topk"), K),
    "batchtopk": (SparsifierRow("batchtopk"), K),
}


@pytest.mark.parametrize("parts", [NO_PARTS, PartsRow(norm=NormRow("layer"))])
@pytest.mark.parametrize("kind", list(ROWS))
def test_it_activates_as_many_latents_on_other_text(kind: str, parts: PartsRow) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = 3 + 5 * torch.randn(2, 20, 50, D_IN, generator=generator)
    document = torch.zeros(20, 50, dtype=torch.int32)
    row, expected = ROWS[kind]
    sparsifier, k = as_sparse(row, K, L0)
    blueprint = Blueprint(sparsifier, parts, "tied", D_IN, D_SAE, k, 50)
    normalisation = Normalisation(torch.full((D_IN,), 3.0), 5 * D_IN**0.5)
    fresh = untrained(blueprint, normalisation, raw[0], document)
    active = fresh.encoding(raw[1], document).codes.events.count().double().mean()
    assert active == pytest.approx(expected, rel=0.1)
