"""Sweeps down the whole line: cells, kills, collapses, experiments."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.sweep.outcome import METRICS
from stages.train.loop import Member
from tests.project import TinyProject, write_corpus
from tests.tiny import tiny_model_folder

ROOT = Path(__file__).parents[2]
SCALE = "objective.temporal.scales.0"
GRID: dict[str, Any] = {
    "asks": "a test",
    "steps": 40,
    "seed": 0,
    "grids": [
        {
            "variants": ["slow"],
            "axes": {
                "window": {"replaces": f"{SCALE}.lags", "values": {2: [1, 1], 3: [1, 2]}},
                "weight": {"replaces": f"{SCALE}.weight", "values": [0.01, 0.1]},
            },
        }
    ],
}
RATES = {"variants": ["topk"], "axes": {"lr": {"replaces": "optimizer.lr", "values": {"usual": 3e-3, "wild": 1e30}}}}
CELLS = [f"slow,window={window},weight={weight}" for window in (2, 3) for weight in (0.01, 0.1)]
TABLE = "sweeps/tiny/grid/table.json"


def declare(project: TinyProject, **changes: Any) -> None:
    (project.root / "sweeps.yaml").write_text(yaml.safe_dump({"grid": GRID | changes}, sort_keys=False))


def git(project: TinyProject, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=project.root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def cells(project: TinyProject) -> dict[str, dict[str, Any]]:
    return {cell["cell"]: cell for cell in json.loads((project.root / TABLE).read_text())["cells"]}


@pytest.fixture
def swept(project: TinyProject) -> TinyProject:
    """A project with a store, of too few documents to probe, and a sweep of two by two cells."""
    write_corpus(project.root / "corpus.jsonl", documents=30)
    assert project("harvest")[0] == 0
    declare(project)
    return project


@pytest.fixture
def tracked(swept: TinyProject) -> TinyProject:
    """The same, as a repository of git and DVC with one commit."""
    for who in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL"):
            swept.patch.setenv(f"GIT_{who}_{what}", "test")
    shutil.copytree(ROOT / ".dvc", swept.root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in (".gitignore", ".dvcignore", "dvc.yaml"):
        shutil.copy(ROOT / name, swept.root)
    git(swept, "init", "--quiet")
    git(swept, "add", ".")
    git(swept, "commit", "--quiet", "--message", "start")
    return swept


def experiments(project: TinyProject) -> list[dict[str, Any]]:
    """What DVC itself says of them."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "show", "--json"], cwd=project.root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (baseline,) = (row for row in json.loads(done.stdout) if row["rev"] != "workspace")
    return [each["revs"][0] for each in baseline["experiments"] or []]


def test_a_sweep_of_two_by_two_cells_is_four_dvc_experiments(tracked: TinyProject) -> None:
    with (tracked.root / "variants.yaml").open("a") as file:
        file.write("# not committed\n")
    (tracked.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    before = git(tracked, "status", "--porcelain"), git(tracked, "rev-parse", "HEAD")
    status, out, err = tracked("sweep", "grid")
    assert status == 0, err
    assert (git(tracked, "status", "--porcelain"), git(tracked, "rev-parse", "HEAD")) == before
    found = cells(tracked)
    assert list(found) == CELLS and f"{TABLE}: 4 of 4 cells" in out and out.count("40 of 40") == 4
    recorded = {each["name"].rpartition("-")[0]: each for each in experiments(tracked)}
    assert set(recorded) == {f"grid,{name}" for name in CELLS}
    for name, cell in found.items():
        data = recorded[f"grid,{name}"]["data"]
        parameters = data["params"]["experiment/params.yaml"]["data"]
        metrics = data["metrics"]["experiment/metrics.json"]["data"]
        assert parameters["axes"] == cell["axes"] and (parameters["variant"], parameters["steps"]) == ("slow", 40)
        measured = {number: cell["summary"][number] for number in METRICS if cell["summary"][number] is not None}
        assert {"l0", "explained_variance_centred", "dead_latents"} <= set(measured)
        assert metrics == {**measured, "steps_done": 40, "collapsed": "no"}
    (one, *_) = (each["rev"] for each in recorded.values())
    assert git(tracked, "show", f"{one}:variants.yaml").endswith("# not committed")
    files = git(tracked, "ls-tree", "-r", "--name-only", one)
    assert "dvc.lock" in files and "sweeps/" not in files
    references = git(tracked, "for-each-ref", "refs/exps")
    status, again, err = tracked("sweep", "grid")
    assert status == 0 and again == out and "is a DVC experiment" not in err
    assert git(tracked, "for-each-ref", "refs/exps") == references


@pytest.mark.slow
def test_a_sweep_that_is_killed_ends_as_one_that_is_not(swept: TinyProject, tmp_path: Path) -> None:
    declare(swept, grids=[*GRID["grids"], RATES])
    other = shutil.copytree(swept.root, tmp_path / "other")
    assert swept("sweep", "grid")[0] == 0
    program = "from pipeline.app import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program, "sweep", "grid"], cwd=other, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while not list(other.glob("sweeps/tiny/grid/*/results/core.json")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (other / TABLE).exists()
    evaluated = {path: path.stat().st_mtime_ns for path in other.glob("sweeps/tiny/grid/*/results/core.json")}
    swept.patch.chdir(other)
    status, _, err = swept("sweep", "grid")
    assert status == 0, err
    assert (other / TABLE).read_bytes() == (swept.root / TABLE).read_bytes()
    assert all(path.stat().st_mtime_ns == when for path, when in evaluated.items())


def test_a_collapsed_cell_is_a_result_and_the_others_go_on(swept: TinyProject) -> None:
    declare(swept, grids=[RATES])
    status, out, err = swept("sweep", "grid")
    assert status == 0, err
    assert "Nothing will be recorded as a DVC experiment" in err and "no folder .dvc" in err
    found = cells(swept)
    wild, usual = found["topk,lr=wild"], found["topk,lr=usual"]
    assert wild["collapsed"] == "the loss or its gradient is not finite" and wild["summary"] is None
    assert wild["collapsed"] in out and "learning rate" in wild["ended"] and wild["steps_done"] < 40
    assert (usual["collapsed"], usual["steps_done"]) == (None, 40) and 0 < usual["summary"]["l0"] <= 4

    def step(*_: object) -> None:
        raise AssertionError("a cell was trained again")

    swept.patch.setattr(Member, "_step", step)
    status, document, err = swept("sweep", "grid", "--json")
    assert status == 0, err
    assert json.loads(document) == json.loads((swept.root / TABLE).read_text())
    listed = json.loads(swept("sweep", "grid", "--dry-run", "--json")[1])
    assert [cell["seconds"] for cell in listed] == [0, 0]


def test_a_cell_that_fails_is_no_result_and_is_trained_again(swept: TinyProject) -> None:
    declare(swept, grids=[{"variants": ["topk", "baseline"]}])
    inner = Member._step

    def step(self: Member, windows: Any) -> None:
        if self.run.config.variant.name == "topk":
            raise RuntimeError("the disk is on fire")
        inner(self, windows)

    with swept.patch.context() as patch:
        patch.setattr(Member, "_step", step)
        with pytest.raises(RuntimeError, match="on fire"):
            swept("sweep", "grid")
    assert list(cells(swept)) == ["baseline"]
    assert swept("sweep", "grid")[0] == 0
    assert list(cells(swept)) == ["topk", "baseline"]


def test_ctrl_c_says_how_to_go_on(swept: TinyProject) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    swept.patch.setattr(Member, "_step", interrupted)
    status, _, err = swept("sweep", "grid")
    assert status == 130 and "goes on from what was last saved" in err and "Traceback" not in err


def test_a_dry_run_prints_the_cells_and_writes_nothing(swept: TinyProject) -> None:
    status, out, err = swept("sweep", "grid", "--dry-run")
    assert status == 0, err
    assert all(name in out for name in CELLS) and "4 of 4 cells to train" in out
    assert not (swept.root / "sweeps").exists()


def test_the_sweeps_are_listed(swept: TinyProject) -> None:
    (row,) = json.loads(swept("sweep", "--json")[1])
    assert row == {"sweep": "grid", "cells": 4, "steps": 40, "seed": 0, "axes": "window, weight", "asks": "a test"}
    assert "window, weight" in swept("sweep")[1]


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"steps": 20}, ["objective.temporal of 20 steps would never end", "grid, slow,window=2", "at least 26 steps"]),
        ({"grids": [{"variants": ["slow", "slow"]}]}, ["Two cells are the same training"]),
        ({"grids": [{"variants": ["fast"]}]}, ["There is no variant 'fast'"]),
        ({"stepz": 20}, ["unknown key 'stepz'"]),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_before_any_work(
    swept: TinyProject, changes: dict, messages: list[str]
) -> None:
    declare(swept, **changes)
    for command in (("sweep", "grid"), ("sweep", "grid", "--dry-run")):
        status, out, err = swept(*command)
        assert (status, out) == (2, "") and "Traceback" not in err
        assert all(message in err for message in messages), err
    assert not (swept.root / "sweeps").exists()


def test_another_language_model_is_refused_before_anything_is_trained(swept: TinyProject, tmp_path: Path) -> None:
    other = tiny_model_folder(tmp_path / "other", "gpt2")
    for model, message in ((tmp_path / "nowhere", "nowhere"), (other, "not the one that made the activation store")):
        status, _, err = swept("sweep", "grid", "--model", str(model))
        assert status in (1, 2) and message in err and "Traceback" not in err
    assert not list((swept.root / "sweeps").rglob("plan.json"))


def test_a_batch_larger_than_the_store_names_the_cell(swept: TinyProject) -> None:
    declare(swept, grids=[{"variants": ["topk"], "axes": {"rows": {"replaces": "train.batch_rows", "values": [5000]}}}])
    status, _, err = swept("sweep", "grid")
    assert status == 1 and "smaller than a batch" in err and "grid, topk,rows=5000" in err and "harvest more" in err


def test_an_unknown_sweep(swept: TinyProject) -> None:
    status, _, err = swept("sweep", "gird")
    assert status == 2 and "There is no sweep 'gird'" in err and "one of grid" in err


def test_a_project_without_a_commit_is_told_so(swept: TinyProject) -> None:
    (swept.root / ".dvc").mkdir()
    declare(swept, grids=[{"variants": ["topk"]}])
    status, _, err = swept("sweep", "grid")
    assert status == 0 and "Nothing will be recorded" in err and "commit something" in err
    assert list(cells(swept)) == ["topk"]
