"""Tiny models, loaded once a session."""

from __future__ import annotations

import pytest
import torch

from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel, load
from tests.tiny import KINDS, tiny_model_folder

torch.set_num_threads(1)


@pytest.fixture(scope="session", params=KINDS)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny random model of 4 layers, of each architecture in turn, in float32."""
    folder = tiny_model_folder(tmp_path_factory.mktemp("models"), request.param, layers=4)
    return load(ModelConfig(request.param, str(folder), dtype="float32"))
