"""The rows that the seeds ran on GPT-2 and Pythia, as the shipped table has them, on random models of those shapes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stages.sae import load_variants
from tests.project import TinyProject
from tests.tiny import tiny_model_folder

TABLE = Path(__file__).parents[2] / "variants.yaml"
ROWS = {
    "gpt2": ["window3", "window3-balanced", "window3-redesign", "window3-accumulate", "window3-lowmem"],
    "gpt_neox": ["mtsae", "mtsae-separation", "mtsae-debug", "mtsae-diagnostics"],
}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the rows' schedules need 8,000 steps each: 5 minutes on two free cores
@pytest.mark.parametrize("kind", ROWS)
def test_rows_train_on_the_models_of_their_seeds(project: TinyProject, tmp_path: Path, kind: str) -> None:
    profile = project.params["profiles"]["tiny"]
    profile["model"]["source"] = str(tiny_model_folder(tmp_path, kind=kind, layers=3, d=16))
    profile["harvest"]["layers"] = "0-1"
    profile["train"] |= {"curriculum": [0, 1], "steps": 8000, "batch_rows": 8}  # window3-lowmem has eight parts
    project.save()
    shutil.copy(TABLE, project.root / "variants.yaml")
    status, _, err = project("harvest")
    assert status == 0, err
    options = [part for name in ROWS[kind] for part in ("--variant", name)]
    status, _, err = project("train", *options)
    assert status == 0, err
    table = load_variants(TABLE)
    for name in ROWS[kind]:
        training = json.loads((project.root / "runs/tiny" / name / "seed0/training.json").read_text())
        stopped = table[name].stopping is not None and training["stopped_by"] is not None
        assert training["steps_done"] == 8000 or stopped, name
        assert training["final"]["explained_variance"] > 0 and training["final"]["l0"] > 0.5, name
