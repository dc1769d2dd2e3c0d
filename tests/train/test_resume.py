"""A killed training goes on and ends with the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import store
from stages.train import train
from stages.train.checkpoint import NAME, Checkpoint, read_checkpoint, write_checkpoint
from stages.train.run import PLAN, TRAINING
from store.files import files_below
from store.problem import Problem
from tests.forks import ENVIRONMENT
from tests.train import small
from tests.train.interrupt import content, interrupted

CHILD = Path(__file__).with_name("child.py")


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(CHILD)], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def train_until_killed(child: subprocess.Popen[str], arguments: str, step: int, delay: float) -> None:
    """Start a training and SIGKILL it `delay` seconds after it reports `step`."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(f"{arguments}\n")
    child.stdin.flush()
    killed = False
    for line in child.stdout:
        pid, number = line.split()
        if pid == "ended":
            assert int(number) == -signal.SIGKILL, "the training ended before it could be killed"
            return
        if int(number) >= step and not killed:
            time.sleep(delay)
            os.kill(int(pid), signal.SIGKILL)
            killed = True
    raise AssertionError("the process that trains is gone")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["topk", "baseline", "warmup2000"])
def test_killed_training_ends_with_the_same_bits(
    kind: str, child: subprocess.Popen[str], activations: store.ActivationStore, tmp_path: Path
) -> None:
    config = small.killed_config(kind)
    undisturbed = train(config, activations, small.LAYER, tmp_path / "undisturbed")
    moments = random.Random(kind)
    folder = tmp_path / "killed"
    for low, high in ((1, 6), (9, 13), (15, 20), (33, 40)):
        step, delay = moments.randint(low, high), moments.uniform(0, 0.02)
        train_until_killed(child, f"{activations.path} {folder} {kind}", step, delay)
        assert not (folder / "training.json").exists()
    resumed = train(config, activations, small.LAYER, folder)
    assert resumed.did == "resumed and finished"
    assert 28 <= resumed.first_step < config.steps
    assert undisturbed.did == "trained"
    assert content(folder) == content(tmp_path / "undisturbed")


def stopped(folder: Path, activations: store.ActivationStore, step: int) -> None:
    interrupted(small.killed_config("topk"), activations, folder, step)


def test_metrics_log_is_cut_back_to_the_checkpoint(activations: store.ActivationStore, tmp_path: Path) -> None:
    stopped(tmp_path / "run", activations, 20)
    log = tmp_path / "run" / "metrics" / "plots" / "metrics" / "loss" / "total.tsv"
    steps = [line.split("\t")[0] for line in log.read_text().splitlines()]
    assert steps == ["step", "0", "3", "6", "9", "12", "15", "18"]
    with log.open("a") as file:
        file.write("2")  # a torn row
    log.with_name("later.tsv").touch()  # begun, and killed before its first row
    (tmp_path / "run" / "metrics" / "metrics.json").write_text('{"torn')
    stopped(tmp_path / "run", activations, 1)  # step 15: the checkpoint is at 14
    steps = [line.split("\t")[0] for line in log.read_text().splitlines()]
    assert steps == ["step", "0", "3", "6", "9", "12"] and not log.with_name("later.tsv").exists()


def test_rates_go_on_where_the_checkpoint_is(activations: store.ActivationStore, tmp_path: Path) -> None:
    """Time that a kill took with it does not count, and no step counts twice."""
    config = small.killed_config("topk")
    folder = tmp_path / "run"
    stopped(folder, activations, 13)
    first = json.loads((tmp_path / "run.run.json").read_text())
    train(config, activations, small.LAYER, folder)
    whole = json.loads((tmp_path / "run.run.json").read_text())
    assert first["steps"] == first["steps"] // config.checkpoint_every * config.checkpoint_every > 0
    assert whole["steps"] == config.steps and whole["seconds"] > first["seconds"] > 0
    steps = [row["steps"] for row in whole["by_step"]]
    assert steps == list(range(config.log_every, config.steps + 1, config.log_every))
    assert whole["by_step"][: len(first["by_step"])] == first["by_step"]
    assert all(row["positions_per_second"] > 0 and row["memory_peak_bytes"] > 1e6 for row in whole["by_step"])


def test_a_run_stopped_after_its_last_checkpoint_only_writes_the_result(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    whole = train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "whole")
    stopped(tmp_path / "run", activations, 60)
    result = train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "run")
    assert result.training == whole.training
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_links_into_a_cache_are_never_written_through(activations: store.ActivationStore, tmp_path: Path) -> None:
    stopped(tmp_path / "run", activations, 20)
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, path in enumerate(sorted(files_below(tmp_path / "run"))):
        (cache / str(number)).hardlink_to(path)
    before = content(cache)
    train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "run")
    assert content(cache) == before


def test_finished_run_is_left_alone_and_a_damaged_one_is_mended(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    config = small.config()
    train(config, activations, small.LAYER, tmp_path / "run")
    before = content(tmp_path / "run")
    assert train(config, activations, small.LAYER, tmp_path / "run").did == "finished before"
    weights = tmp_path / "run" / "sae" / "sae_weights.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    train(config, activations, small.LAYER, tmp_path / "run")
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("stopped_at", [20, None])
def test_a_training_without_its_log_begins_anew(
    stopped_at: int | None, activations: store.ActivationStore, tmp_path: Path
) -> None:
    """Its checkpoint is no output of DVC, its log is."""
    config = small.killed_config("topk")
    whole = train(config, activations, small.LAYER, tmp_path / "whole")
    if stopped_at is None:
        train(config, activations, small.LAYER, tmp_path / "run")
        (tmp_path / "run" / TRAINING).unlink()
        shutil.rmtree(tmp_path / "run" / "sae")
    else:
        stopped(tmp_path / "run", activations, stopped_at)
    shutil.rmtree(tmp_path / "run" / "metrics" / "plots")
    result = train(config, activations, small.LAYER, tmp_path / "run")
    assert (result.did, result.training) == ("trained", whole.training)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


@pytest.mark.parametrize("damaged", ["[]", '{"a": 1}', "7", '{"fingerprint": "x", "plan": 3}', '{"files": 3}'])
def test_files_of_another_shape_are_no_training(
    damaged: str, activations: store.ActivationStore, tmp_path: Path
) -> None:
    train(small.config(), activations, small.LAYER, tmp_path / "run")
    before = content(tmp_path / "run")
    (tmp_path / "run" / TRAINING).write_text(damaged)
    train(small.config(), activations, small.LAYER, tmp_path / "run")
    assert content(tmp_path / "run") == before
    for name in (TRAINING, PLAN):
        (tmp_path / "run" / name).write_text(damaged)
    train(small.config(), activations, small.LAYER, tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_another_configuration_replaces_the_run_as_a_whole(activations: store.ActivationStore, tmp_path: Path) -> None:
    train(small.config(), activations, small.LAYER, tmp_path / "run")
    other = small.config(seed=1)
    with pytest.raises(Problem, match="another training"):
        train(other, activations, small.LAYER, tmp_path / "run", replace=False)
    result = train(other, activations, small.LAYER, tmp_path / "run")
    train(other, activations, small.LAYER, tmp_path / "fresh")
    assert result.did == "trained"
    assert content(tmp_path / "run") == content(tmp_path / "fresh")


def test_a_folder_that_is_no_training_is_not_deleted(activations: store.ActivationStore, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(Problem, match="no training"):
        train(small.config(), activations, small.LAYER, tmp_path / "run")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_half_written_checkpoint_is_ignored_and_removed(activations: store.ActivationStore, tmp_path: Path) -> None:
    stopped(tmp_path / "run", activations, 20)
    partial = tmp_path / "run" / f"{NAME}.partial"
    partial.write_bytes((tmp_path / "run" / NAME).read_bytes()[:100])
    result = train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "run")
    assert result.first_step == 14
    assert not partial.exists()


def test_checkpoint_round_trip_is_deterministic(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4).T, "a": torch.tensor(5), "c": torch.zeros(2, dtype=torch.int64)}
    written = []
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, Checkpoint(7, "f", tensors))
        written.append((tmp_path / name / NAME).read_bytes())
        read = read_checkpoint(tmp_path / name)
        assert read is not None and (read.step, read.fingerprint) == (7, "f")
        assert all(torch.equal(read.tensors[key], tensor) for key, tensor in tensors.items())
    assert written[0] == written[1]
    assert read_checkpoint(tmp_path / "none") is None


def test_machine_that_cannot_follow_the_plan_refuses(
    activations: store.ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path / "run", activations, 20)
    before = content(tmp_path / "run")
    monkeypatch.setattr("stages.train.plan.cpu_capability", lambda: "riscv64 V")
    with pytest.raises(Problem, match="cannot follow") as refusal:
        train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "run")
    assert "riscv64 V" in str(refusal.value.found)
    assert content(tmp_path / "run") == before


def test_resume_computes_with_the_threads_of_the_plan(activations: store.ActivationStore, tmp_path: Path) -> None:
    whole = train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "whole")
    stopped(tmp_path / "run", activations, 20)
    torch.set_num_threads(2)
    try:
        train(small.killed_config("topk"), activations, small.LAYER, tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert content(tmp_path / "run") == content(whole.folder)
