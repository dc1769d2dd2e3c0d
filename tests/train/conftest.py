from __future__ import annotations

from pathlib import Path

import pytest

import store
from tests.train import small


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    small.single_thread()


@pytest.fixture(scope="session")
def activations(tmp_path_factory: pytest.TempPathFactory) -> store.ActivationStore:
    """One store for the tests that only read."""
    return small.make_store(Path(tmp_path_factory.mktemp("stores")) / "store")
