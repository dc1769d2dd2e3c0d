"""All numbers against SAEBench 0.6.0 and SAELens 6.54 themselves, on the same tokens and the same activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.evaluate.core.definitions import LATENTS, SCALARS
from stages.evaluate.core.document import CATEGORIES, Reading
from stages.evaluate.core.features import latent_metrics, misc_metrics, other_latent_metrics
from stages.evaluate.core.splicing import reconstruction
from stages.evaluate.core.variance import sparsity_variance
from stages.language_model.config import ModelConfig
from stages.language_model.model import load
from stages.language_model.splice import Splice
from stages.sae.files import for_raw
from stages.sae.model import SAE
from tests.evaluate.core import judges
from tests.evaluate.stand_ins import (
    EVERYTHING,
    TEMPORAL,
    MemoryStore,
    dead_sae,
    identity_sae,
    random_rows,
    random_sae,
    sae_with,
    units_of,
)
from tests.tiny import KINDS, tiny_model_folder

D, LAYER, CONTEXT, BATCH = 32, 1, 24, 4
BATCHES = [np.arange(i, i + BATCH) for i in range(0, 20, BATCH)]
RECONSTRUCTION, VARIANCE = BATCHES[:2], BATCHES[2:]


@dataclass
class Scene:
    """A tiny model, here and in TransformerLens, and rows of random tokens with their activations."""

    splice: Splice
    bridge: Any
    store: MemoryStore

    @property
    def kept(self) -> Tensor:
        return self.store.activations[torch.as_tensor(self.store.document_ >= 0)]

    def saes(self, names: list[str]) -> dict[str, Any]:
        kept = self.kept
        made = {
            "random": lambda: random_sae(D, 48, 0, float(kept.std())),
            "dead": lambda: dead_sae(D, 8),
            "identity": lambda: identity_sae(D),
            "dead temporal": lambda: for_raw(sae_with(EVERYTHING, D, CONTEXT, dead=True), units_of(kept)),
            **{
                name: lambda row=row: for_raw(sae_with(row, D, CONTEXT), units_of(kept))
                for name, row in TEMPORAL.items()
            },
        }
        return {name: made[name]() for name in names}

    def readings(self, saes: dict[str, SAE]) -> dict[str, Reading]:
        """Our numbers, of rows as SAEBench passes them."""
        variances = sparsity_variance(saes, self.store, LAYER, VARIANCE, without_documents=saes)
        splicings = reconstruction(saes, self.splice, self.store, RECONSTRUCTION, without_documents=saes)
        return {name: Reading(variances[name], splicings[name]) for name in saes}

    def tokens(self, batches: list[np.ndarray]) -> list[Tensor]:
        return [torch.as_tensor(self.store.tokens(rows)) for rows in batches]


@pytest.fixture(scope="module", params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), request.param, layers=3, d=D)
    splice = Splice(load(ModelConfig(request.param, str(folder), dtype="float32")), LAYER)
    tokens, document = random_rows(20, CONTEXT, 300)
    activations = splice.resid(torch.as_tensor(tokens).long()).clone()
    return Scene(splice, judges.bridge_to(folder), MemoryStore(activations, tokens, document, LAYER))


def test_every_number_equals_saebench(scene: Scene) -> None:
    saes = scene.saes(["random", "dead", "identity", "dead temporal", *TEMPORAL])
    for name, reading in scene.readings(saes).items():
        batches = scene.tokens(RECONSTRUCTION), scene.tokens(VARIANCE)
        expected, theirs = judges.saebench(saes[name], scene.bridge, LAYER, *batches)
        latents = latent_metrics(saes[name], reading.variance)
        ours = reading.scalars | misc_metrics(latents)
        assert set(expected) == set(ours) - set(SCALARS)
        judges.assert_equal(ours, expected, latents, theirs)


@pytest.mark.parametrize("scene", ["gemma3"], indirect=True)
@pytest.mark.parametrize("name", ["random", "dead", "prediction"])
def test_every_number_equals_saelens(scene: Scene, name: str) -> None:
    """The codes of `prediction` have a sign, which SAELens's definitions ignore and SAEBench's do not."""
    saes = scene.saes([name])
    reading = scene.readings(saes)[name]
    batches = scene.tokens(RECONSTRUCTION), scene.tokens(VARIANCE)
    expected, theirs = judges.saelens(saes[name], scene.bridge, LAYER, *batches)
    latents = latent_metrics(saes[name], reading.variance)
    others = {key: values for key, values in other_latent_metrics(reading.variance).items() if "saelens" in key}
    assert bool(others) == (name == "prediction") and set(others) <= set(LATENTS)
    latents |= {key.removesuffix("_saelens"): values for key, values in others.items()}
    ours = {key.removesuffix("_saelens"): value for key, value in reading.scalars.items() if "saelens" in key}
    assert set(ours) == {"explained_variance", "mse", "l1"}
    assert set(expected) == {key for keys in CATEGORIES.values() for key in keys}
    judges.assert_equal(reading.scalars | ours, expected, latents, theirs)
