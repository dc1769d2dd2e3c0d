from __future__ import annotations

from pathlib import Path

import pytest

from stages.language_model.config import CorpusConfig, ModelConfig
from tests.project import write_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> CorpusConfig:
    return CorpusConfig(source=str(write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", 40)))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ModelConfig:
    return ModelConfig(name="tiny/gemma3", source=str(tiny_model), dtype="float32")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 8 rows, so that a small harvest has several."""
    monkeypatch.setattr("store.manifest.SHARD_BYTES", 0)
