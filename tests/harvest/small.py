"""A harvest that takes a second, and one that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

import store
from stages.harvest.config import HarvestConfig
from stages.harvest.harvest import harvest
from stages.language_model.config import CorpusConfig, ModelConfig
from store.problem import Problem

CONFIG = HarvestConfig(layers="0-2", context=16, heldout=0.2, dtype="float32")


def interrupt_after_first_shard(
    folder: Path, model: ModelConfig, text: CorpusConfig, config: HarvestConfig = CONFIG, replace: bool = False
) -> None:
    """Leave a partial store with one shard in `folder`."""

    def stop_at_second(self: store.StoreWriter, shard: int, payload: object) -> None:
        if shard == 1:
            raise KeyboardInterrupt
        original(self, shard, payload)  # type: ignore[arg-type]

    original = store.StoreWriter.write_shard
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.StoreWriter, "write_shard", stop_at_second)
        harvest(folder, config, model, text, replace=replace)
    with pytest.raises(Problem, match="partial"):
        store.open(folder)
