from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store import ActivationStore
from tests.store.make import CONTEXT, LAYERS, make


@pytest.fixture(autouse=True, scope="module")
def small_shards() -> Iterator[None]:
    """Shards of 16 sequences, so that the stores of the tests have several and a short last one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("store.manifest.SHARD_BYTES", 16 * CONTEXT * max(LAYERS.values()) * 2)
        yield


@pytest.fixture
def activations(tmp_path: Path) -> ActivationStore:
    return make(tmp_path / "store")
