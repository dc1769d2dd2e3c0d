"""dvc.yaml itself, run by DVC on a tiny model."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import store
from tests.project import make_project, write_params

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


class DvcProject:
    """A git repository with this project's dvc.yaml and a tiny profile."""

    def __init__(self, root: Path, model: Path, documents: int = 120) -> None:
        self.root = root
        self.params = make_project(root, model, documents)
        self.params["profiles"]["deeper"] = {**self.params["profiles"]["tiny"], "name": "deeper"}
        self.save()
        shutil.copy(ROOT / "dvc.yaml", root)
        shutil.copy(ROOT / ".dvcignore", root)
        shutil.copy(ROOT / ".gitignore", root)
        shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
        for name in ("sae", "train", "evaluate", "language_model", "report"):
            shutil.copytree(ROOT / "stages" / name, root / "stages" / name)
        (root / "store").mkdir()
        for name in ("pairs.py", "windows.py"):
            shutil.copy(ROOT / "store" / name, root / "store")
        self.bin = root.parent / "bin"
        self.bin.mkdir()
        command = self.bin / "pipeline"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from pipeline.app import main; main()" "$@"\n')
        command.chmod(0o755)
        subprocess.run(["git", "init", "-q", str(root)], check=True)

    def save(self) -> None:
        write_params(self.root, self.params)

    def start(self) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            "PATH": f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=self.root,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def repro(self) -> list[str]:
        """Names of the stages that ran."""
        process = self.start()
        out, _ = process.communicate()
        assert process.returncode == 0, out
        return re.findall(r"Running stage '([^']+)'", out)


@pytest.fixture
def dvc(tmp_path: Path, tiny_model: Path) -> DvcProject:
    return DvcProject(tmp_path / "project", tiny_model)


def test_what_runs_again_is_what_changed(dvc: DvcProject) -> None:
    dvc.params["run"]["variants"] = ["topk", "slow", "slow+no-temporal"]
    dvc.save()
    everything = {
        "harvest@tiny",
        "train@tiny-topk-0",
        "train@tiny-slow-0",
        "train@tiny-slow+no-temporal-0",
        "evaluate@tiny",
        "report@tiny",
    }
    assert set(dvc.repro()) == everything
    root = store.open(dvc.root / "data/stores/tiny-L1").root
    assert dvc.repro() == []
    table = yaml.safe_load((dvc.root / "variants.yaml").read_text())
    kept = dvc.root / "results/tiny/slow/seed0/core.json"
    before = kept.stat().st_mtime_ns, kept.read_bytes()
    table["topk"]["optimizer"]["lr"] = 2e-3
    (dvc.root / "variants.yaml").write_text(yaml.safe_dump(table))
    assert dvc.repro() == ["train@tiny-topk-0", "evaluate@tiny", "report@tiny"]
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before, "only topk was evaluated again"
    table["slow"]["optimizer"]["lr"] = 2e-3  # and with it, by the alias, that of its control
    (dvc.root / "variants.yaml").write_text(yaml.safe_dump(table))
    ran = dvc.repro()
    assert set(ran) == {"train@tiny-slow-0", "train@tiny-slow+no-temporal-0", "evaluate@tiny", "report@tiny"}
    dvc.params["profile"] = "deeper"
    dvc.save()
    assert {name.split("@")[1].split("-")[0] for name in dvc.repro()} == {"deeper"}
    dvc.params["profile"] = "tiny"
    dvc.save()
    assert dvc.repro() == []
    assert store.open(dvc.root / "data/stores/tiny-L1").root == root


def test_a_plain_harvest_is_only_recorded(dvc: DvcProject) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([dvc.bin / "pipeline", "harvest"], cwd=dvc.root, env=env, check=True, capture_output=True)
    shard = dvc.root / "data/stores/tiny-L1/activations.zarr/layers/1/resid_post/c/0/0/0"
    content, root = shard.read_bytes(), store.open(dvc.root / "data/stores/tiny-L1").root
    clock = (dvc.root / "data/stores/tiny-L1.run.json").read_bytes()
    assert "harvest@tiny" in dvc.repro()
    assert store.open(dvc.root / "data/stores/tiny-L1").root == root and shard.read_bytes() == content
    assert (dvc.root / "data/stores/tiny-L1.run.json").read_bytes() == clock


def test_a_killed_repro_goes_on_to_the_same_digest(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = DvcProject(tmp_path / "whole/project", tiny_model, documents=4000)
    cut = DvcProject(tmp_path / "cut/project", tiny_model, documents=4000)
    for project in (whole, cut):
        project.params["run"] = {"variants": ["topk"], "seeds": [0]}
        project.params["profiles"]["tiny"]["corpus"]["source"] = str(whole.root / "corpus.jsonl")
        project.save()
    whole.repro()
    process = cut.start()
    tokens = cut.root / "data/stores/tiny-L1/documents.parquet"
    while not tokens.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    manifest = store.manifest.Manifest.load(cut.root / "data/stores/tiny-L1")
    assert manifest.root is None
    ran = cut.repro()
    assert ran[0] == "harvest@tiny"
    ends = [store.open(project.root / "data/stores/tiny-L1").root for project in (whole, cut)]
    assert ends[0] == ends[1]
