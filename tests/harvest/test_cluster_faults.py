"""Workers that die, and a coordinator that does: nothing is lost, nothing is corrupt, nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from distributed import WorkerPlugin

import store
from stages.harvest import plan
from stages.harvest.cluster import local_cluster
from stages.harvest.harvest import harvest
from stages.harvest.worker import LayerRunner
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.precision import can_compile
from store.problem import Problem
from tests import forks
from tests.harvest.small import CONFIG
from tests.project import TinyProject
from tests.store.make import content

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_shards")]


class Gate(WorkerPlugin):
    """Holds every forward pass of a worker while the file `shut` exists, and leaves a file that says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "shut").touch()

    def setup(self, worker: Any) -> None:
        forward, folder = LayerRunner.__call__, self.folder

        def held(runner: LayerRunner, tokens: Any) -> Any:
            (folder / f"{worker.name}-{os.getpid()}").touch()
            _until(lambda: not (folder / "shut").exists())
            return forward(runner, tokens)

        LayerRunner.__call__ = held  # type: ignore[method-assign, assignment]

    def computing(self, name: int) -> set[int]:
        """Process ids of the workers `name` that ever reached a forward pass."""
        return {int(path.name.split("-")[1]) for path in self.folder.glob(f"{name}-*")}

    def kill(self, name: int, times: int) -> None:
        """SIGKILL the worker `name` in its forward pass, and those that come in its place; then open."""
        killed: set[int] = set()
        while len(killed) < times:
            for pid in self.computing(name) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            time.sleep(0.02)
        self.open()

    def open(self) -> None:
        """Let everyone through."""
        (self.folder / "shut").unlink()


def test_a_worker_killed_twice_loses_nothing(tmp_path: Path, model: ModelConfig, text: CorpusConfig) -> None:
    alone = harvest(tmp_path / "alone", CONFIG, model, text)
    gate = Gate(tmp_path / "gate")
    with local_cluster(2) as cluster:
        cluster.client.register_plugin(gate)
        killer = Thread(target=gate.kill, args=(0, 2))
        killer.start()
        result = harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
        killer.join()
    assert len(gate.computing(0)) >= 2 and len(gate.computing(1)) == 1
    assert result.root == alone.root and content(tmp_path / "s") == content(tmp_path / "alone")


def test_a_worker_that_joins_gets_work_while_another_is_stuck(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    alone = harvest(tmp_path / "alone", CONFIG, model, text)
    gate = Gate(tmp_path / "gate")
    with local_cluster(1) as cluster:
        cluster.client.register_plugin(gate)

        def join() -> None:
            _until(lambda: bool(gate.computing(0)))
            cluster.client.cluster.scale(2)
            _until(lambda: bool(gate.computing(1)))
            gate.open()

        joining = Thread(target=join)
        joining.start()
        result = harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
        joining.join()
    assert gate.computing(1) and result.root == alone.root


def test_a_shard_that_kills_its_workers_is_given_up(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.harvest.cluster.DEATHS", 1)
    gate = Gate(tmp_path / "gate")
    with local_cluster(1) as cluster:
        cluster.client.register_plugin(gate)
        Thread(target=gate.kill, args=(0, 2), daemon=True).start()
        with pytest.raises(Problem, match=r"died again and again while they computed shard \d") as given_up:
            harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
    assert "tcp://" in str(given_up.value.where) and given_up.value.found == "2 deaths"
    assert harvest(tmp_path / "s", CONFIG, model, text).did == "resumed and finished"


PROGRAM = """
import store.manifest
store.manifest.SHARD_BYTES = 0
from pipeline.app import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_coordinator_that_ends_leaves_no_worker_behind(project: TinyProject, ending: int) -> None:
    (project.root / "program.py").write_text(PROGRAM)
    manifest = project.root / "data/stores/tiny-L1/manifest.json"
    with subprocess.Popen(
        [sys.executable, "program.py", "harvest", "--workers", "2"],
        env={**forks.ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as coordinator:
        _until(lambda: manifest.exists() and manifest.read_text().count("resid_post/c/") > 3)
        workers = psutil.Process(coordinator.pid).children(recursive=True)
        if ending == signal.SIGINT:
            os.killpg(coordinator.pid, ending)  # a terminal sends Ctrl-C to all
        else:
            coordinator.send_signal(ending)
        _, err = coordinator.communicate()
    assert coordinator.returncode == (130 if ending == signal.SIGINT else -ending)
    assert ("goes on from what was last saved" in err) == (ending == signal.SIGINT) and "Traceback" not in err
    assert len(workers) >= 2
    _until(lambda: not any(map(_runs, workers)))
    assert "resumed and finished" in project("harvest")[1]
    assert project("harvest", "--store", "alone")[0] == 0
    assert content(manifest.parent) == content(project.root / "alone")


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # beside other work, a process takes a minute to start
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_compiled_workers_write_the_bytes_of_one_compiled_process(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.harvest.plan.COMPILE_FROM_TOKENS", 0)
    alone = harvest(tmp_path / "alone", CONFIG, model, text)
    with local_cluster(2) as cluster:
        cluster.client.register_plugin(AlwaysCompile())
        result = harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
    assert store.open(tmp_path / "s").plan["compiled"] == can_compile()[0]
    assert result.root == alone.root and content(tmp_path / "s") == content(tmp_path / "alone")


class AlwaysCompile(WorkerPlugin):
    """However short the harvest is."""

    def setup(self, worker: Any) -> None:
        plan.COMPILE_FROM_TOKENS = 0
