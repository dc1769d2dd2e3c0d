"""The whole line on the real embedded Gemma, on few tokens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import store
from pipeline.params import read_params
from tests.project import VARIANTS, TinyProject, write_params
from tests.store.make import content

ROOT = Path(__file__).parents[2]


@pytest.fixture
def embedded(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> TinyProject:
    """The embedded profile on 6,144 tokens."""
    profile = yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"]["embedded"]
    profile["corpus"]["tokens"] = 6144
    profile["harvest"]["heldout"] = 0.3
    profile["train"] |= {"d_sae": 256, "k": 16, "batch_rows": 4, "steps": 200}
    profile["evaluate"] |= {"batch_rows": 2, "reconstruction_share": 0.1}
    project = TinyProject(tmp_path, {}, capsys, monkeypatch)
    write_params(
        tmp_path,
        {"run": {"variants": ["topk", "slow"], "seeds": [0]}, "profiles": {"embedded": profile}, "profile": "embedded"},
    )
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(VARIANTS))
    monkeypatch.chdir(tmp_path)
    return project


@pytest.mark.slow
def test_a_killed_harvest_of_the_embedded_model_ends_with_the_same_bytes(
    embedded: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.manifest.SHARD_BYTES", 0)
    asked = ("harvest", "--layer", "5", "--layer", "11", "--store")
    manifest = embedded.root / "killed/manifest.json"
    program = "import store.manifest; store.manifest.SHARD_BYTES = 0; from pipeline.app import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program, *asked, "killed"], env=environment) as harvest:
        while not (manifest.exists() and manifest.read_text().count("resid_post/c/") >= 4):
            assert harvest.poll() is None
            time.sleep(0.02)
        harvest.kill()
    assert harvest.returncode == -signal.SIGKILL
    status, out, err = embedded(*asked, "killed")
    assert status == 0 and "resumed and finished" in out, err
    assert embedded(*asked, "undisturbed")[0] == 0
    assert content(embedded.root / "killed") == content(embedded.root / "undisturbed")


@pytest.mark.slow
def test_the_embedded_profile_end_to_end(embedded: TinyProject) -> None:
    project, tmp_path = embedded, embedded.root
    assert read_params(tmp_path).profile.model.sha256 is not None
    for command in ("harvest", "train", "evaluate", "report"):
        status, _, err = project(command)
        assert status == 0, err
    opened = store.open(tmp_path / "data/stores/embedded-L11")
    assert opened.layers == {11: 640} and opened.n_sequences == 48
    # Measured on the whole corpus: centred RMS norm 3,918, mean vector 10,400.
    statistics = opened.statistics(11)
    assert 3500 < statistics.scale < 4400
    summary = json.loads((tmp_path / "results/embedded/topk/seed0/summary.json").read_text())
    assert summary["steps_done"] == 200 and summary["explained_variance_centred"] > 0.2
    assert summary["ce_loss_with_ablation"] == pytest.approx(12.4766, abs=1e-2)  # ln 262,144: a bias-free model
    assert summary["ce_loss_without_sae"] < summary["ce_loss_with_sae"] < summary["ce_loss_with_ablation"]
    slow = json.loads((tmp_path / "results/embedded/slow/seed0/summary.json").read_text())
    assert slow["tcs_short"] > slow["tcs_short_inputs_permuted"]  # neighbours in a text share latents
    page = (tmp_path / "report/embedded/index.html").read_text()
    assert "What the temporal part of slow bought is not known" in page
