"""Two clones of a project share a store through DVC, and through its manifest alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import store
from tests.pipeline.test_dvc import ROOT, DvcProject

pytestmark = pytest.mark.slow
STORE = "data/stores/tiny-L1"


class Clones:
    """A project, and a teammate's clone of it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.mine = folder / "mine"
        self.theirs = folder / "theirs"
        project = DvcProject(self.mine, model)
        self.env = {
            **os.environ,
            "PATH": f"{project.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def run(self, root: Path, *command: str) -> str:
        done = subprocess.run(command, cwd=root, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def clone(self) -> None:
        self.run(self.mine, "git", "add", ".")
        self.run(self.mine, "git", "commit", "-qm", "a store")
        self.run(self.folder, "git", "clone", "-q", "mine", "theirs")


@pytest.fixture
def clones(tmp_path: Path, tiny_model: Path) -> Clones:
    return Clones(tmp_path, tiny_model)


def test_dvc_push_and_pull_share_a_store_to_train_from(clones: Clones) -> None:
    clones.run(clones.mine, "dvc", "remote", "add", "--default", "team", str(clones.folder / "remote"))
    clones.run(clones.mine, "dvc", "repro", "harvest@tiny")
    clones.run(clones.mine, "dvc", "push")
    clones.clone()
    clones.run(clones.theirs, "dvc", "pull", STORE)
    assert store.verify(clones.theirs / STORE).problems == []
    assert store.open(clones.theirs / STORE).root == store.open(clones.mine / STORE).root
    (clones.mine / "corpus.jsonl").unlink()  # neither text nor model is needed any more
    clones.run(clones.theirs, "pipeline", "train", "--variant", "topk")
    assert (clones.theirs / "runs/tiny/topk/seed0/sae/cfg.json").exists()
    assert "didn't change" in clones.run(clones.theirs, "dvc", "repro", "harvest@tiny")


def test_a_store_is_tracked_by_its_manifest_alone(clones: Clones) -> None:
    """As the README says: git has the manifest, DVC hashes nothing else, the bucket has the rest."""
    path = clones.mine / "dvc.yaml"
    stages = yaml.safe_load(path.read_text())
    place = "data/stores/${item.profile}-L${profile.harvest.layers}"
    stages["stages"]["harvest"]["outs"] = [{f"{place}/manifest.json": {"cache": False, "persist": True}}]
    stages["stages"]["train"]["deps"][0] = f"{place}/manifest.json"
    path.write_text(yaml.safe_dump(stages, sort_keys=False))
    bucket = str(clones.folder / "bucket/tiny-L1")
    clones.run(clones.mine, "dvc", "repro", "harvest@tiny", "train@tiny-topk-0")
    clones.run(clones.mine, "pipeline", "store", "push", STORE, bucket, "--compress")
    clones.run(clones.mine, "git", "add", "--force", f"{STORE}/manifest.json")
    clones.clone()
    cached = {file.read_bytes() for file in (clones.mine / ".dvc/cache").rglob("*") if file.is_file()}
    files = [file.read_bytes() for file in (clones.mine / STORE).rglob("*") if file.is_file()]
    assert not cached & set(files), "nothing of the store is in DVC's cache"
    clones.run(clones.theirs, "pipeline", "store", "pull", bucket, STORE)
    assert store.verify(clones.theirs / STORE).root == store.open(clones.mine / STORE).root
    assert "didn't change" in clones.run(clones.theirs, "dvc", "repro", "harvest@tiny")
    assert "train@tiny-topk-0" in clones.run(clones.theirs, "dvc", "repro", "train@tiny-topk-0")
    other = clones.folder / "bucket/other"
    clones.run(clones.mine, "pipeline", "harvest", "--tokens", "640", "--store", str(other))
    refused = subprocess.run(
        ["pipeline", "store", "pull", str(other), STORE], cwd=clones.theirs, env=clones.env, capture_output=True
    )
    assert refused.returncode == 1 and b"Another store is in this folder" in refused.stderr
