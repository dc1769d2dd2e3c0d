from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.project import TinyProject, make_project, tiny_gemma

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(name, "1")
torch.set_num_threads(1)
# Whoever starts tests in the background may have them ignore Ctrl-C, and programs that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 3, made once."""
    return tiny_gemma(tmp_path_factory.mktemp("model"))


@pytest.fixture
def project(
    tmp_path: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> TinyProject:
    """A small project that the command line runs in."""
    root = tmp_path / "project"
    params = make_project(root, tiny_model)
    monkeypatch.chdir(root)
    return TinyProject(root, params, capsys, monkeypatch)
