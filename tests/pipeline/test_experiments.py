"""Commits that DVC reads as experiments, without a training."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.experiments import Experiments
from store.problem import Problem


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a folder of a repository with one commit."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test")
    root = tmp_path / "repository" / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / "params.yaml").write_text("one: 1\n")
    git(root.parent, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "start")
    return root


def test_an_experiment_is_recorded_once_for_its_numbers(root: Path) -> None:
    (root / "params.yaml").write_text("one: 2\n")
    git(root, "add", "params.yaml")
    (root / "params.yaml").write_text("one: 3\n")
    status, head = git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")
    experiments = Experiments.of(root)
    assert experiments.record("cell", {"axes": {"weight": 0.1}}, {"l0": 3})
    reference = f"refs/exps/{head[:2]}/{head[2:]}/cell"
    first = git(root, "rev-parse", reference)
    assert git(root, "rev-parse", f"{first}^") == head
    assert git(root, "show", f"{first}:project/params.yaml") == "one: 3"
    assert git(root, "show", f"{first}:project/experiment/params.yaml").split() == ["axes:", "weight:", "0.1"]
    assert not experiments.record("cell", {"axes": {"weight": 0.1}}, {"l0": 3})
    assert git(root, "rev-parse", reference) == first
    assert experiments.record("cell", {"axes": {"weight": 0.1}}, {"l0": 4})
    assert '"l0": 4' in git(root, "show", f"{reference}:project/experiment/metrics.json")
    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")) == (status, head)


def test_files_that_were_added_and_an_ignored_lock_belong_to_it(root: Path) -> None:
    (root / "new.yaml").write_text("two: 2\n")
    git(root, "add", "new.yaml")
    (root / ".gitignore").write_text("dvc.lock\n")
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    Experiments.of(root).record("cell", {}, {"l0": 3})
    head = git(root, "rev-parse", "HEAD")
    files = git(root, "ls-tree", "-r", "--name-only", "--full-tree", f"refs/exps/{head[:2]}/{head[2:]}/cell").split()
    assert {"project/new.yaml", "project/dvc.lock"} <= set(files) and "project/.gitignore" not in files
    assert git(root, "diff", "--cached", "--name-only") == "project/new.yaml"


def test_a_name_that_git_refuses(root: Path) -> None:
    with pytest.raises(Problem, match=r"(?s)git update-ref failed.*bad..name"):
        Experiments.of(root).record("bad..name", {}, {})


@pytest.mark.parametrize("lack", ["dvc", "commit", "identity", "git"])
def test_what_is_lacking_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    found = {"dvc": "no folder .dvc", "commit": "single revision", "identity": "email", "git": "no program git"}[lack]
    if lack == "dvc":
        (root / ".dvc").rmdir()
    elif lack == "commit":
        git(root, "update-ref", "-d", "HEAD")
    elif lack == "identity":
        for what in ("NAME", "EMAIL"):
            monkeypatch.delenv(f"GIT_COMMITTER_{what}")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "absent"))
        monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        git(root, "config", "user.useConfigOnly", "true")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="Nothing will be recorded as a DVC experiment") as caught:
        Experiments.of(root)
    assert found in str(caught.value.found)
