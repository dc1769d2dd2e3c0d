"""The whole line on the real embedded Gemma, on few tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import store
from pipeline.params import read_params
from tests.project import VARIANTS, TinyProject, write_params

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_embedded_profile_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
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
