"""Worker processes write the bytes of one process, or say why not."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dask
import pytest
from distributed import Client, LocalCluster

import store
from stages.harvest import activations, worker
from stages.harvest.cluster import Cluster, _kill, local_cluster, threads_for
from stages.harvest.harvest import harvest
from stages.harvest.shared import Shared
from stages.harvest.worker import Job
from stages.language_model.config import CorpusConfig, ModelConfig
from store import engine
from store.manifest import Manifest
from store.problem import Problem
from tests.harvest.small import CONFIG, interrupt_after_first_shard
from tests.project import TinyProject
from tests.store.make import content

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two worker processes, for all tests of this file: each takes seconds to import what it needs."""
    with local_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def alone(tmp_path: Path, model: ModelConfig, text: CorpusConfig) -> Path:
    """The store that one process makes."""
    harvest(tmp_path / "alone", CONFIG, model, text)
    return tmp_path / "alone"


@contextmanager
def on_workers(cluster: Cluster, module: str, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Inside, every worker has `stand_in` for a function of a module."""
    cluster.client.run(_swap, module, name, stand_in)
    try:
        yield
    finally:
        cluster.client.run(_swap, module, name, None)


def _swap(module: str, name: str, stand_in: Callable[..., Any] | None) -> None:
    home = importlib.import_module(module)
    if stand_in:
        setattr(home, f"former_{name}", getattr(home, name))
    setattr(home, name, stand_in or getattr(home, f"former_{name}"))


class Seen:
    """Progress as the coordinator tells it."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[int]] = {}

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.tasks[task] = self.now = [total, done]

    def advance(self, amount: int) -> None:
        self.now[1] += amount

    def note(self, line: str) -> None: ...


def test_two_workers_write_the_bytes_of_one_process(
    tmp_path: Path, alone: Path, model: ModelConfig, text: CorpusConfig, cluster: Cluster
) -> None:
    seen = Seen()
    result = harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster, progress=seen)
    assert result.did == "harvested" and result.root == store.open(alone).root
    assert content(tmp_path / "s") == content(alone)
    assert {"harvest", "statistics"} <= set(seen.tasks) and all(
        total in (0, done) for total, done in seen.tasks.values()
    )
    again = harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
    assert again.did == "finished before"


def test_a_resume_by_workers_keeps_the_recorded_threads(
    tmp_path: Path, alone: Path, model: ModelConfig, text: CorpusConfig, cluster: Cluster
) -> None:
    interrupt_after_first_shard(tmp_path / "s", model, text)
    result = harvest(tmp_path / "s", CONFIG, model, text, cluster=replace(cluster, threads=5))
    assert result.did == "resumed and finished" and store.open(tmp_path / "s").plan["threads"] == 1
    assert content(tmp_path / "s") == content(alone)


def test_threads_are_shared_out_and_recorded(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert [threads_for(workers) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    harvest(tmp_path / "s", CONFIG, model, text, cluster=replace(cluster, threads=2))
    assert store.open(tmp_path / "s").plan["threads"] == 2


def test_workers_do_not_see_ctrl_c(cluster: Cluster) -> None:
    """The terminal sends it to all processes: a worker that took it would print a traceback."""
    for pid in cluster.client.run(os.getpid).values():
        (blocked,) = (
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk")
        )
        assert int(blocked.split()[1], 16) & 1 << signal.SIGINT - 1


def test_a_worker_that_died_unnoticed_does_not_stop_the_ending() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ended = []
    nanny = SimpleNamespace(pid=gone.pid, close_gracefully=lambda: ended.append(gone.pid))
    _kill(cast(LocalCluster, SimpleNamespace(workers={0: nanny})))
    assert ended == [gone.pid]


def test_verification_runs_on_the_workers(alone: Path, cluster: Cluster) -> None:
    shard = alone / "activations.zarr/layers/2/resid_post/c/1/0/0"
    flipped = bytearray(shard.read_bytes())
    flipped[7] ^= 1
    shard.write_bytes(flipped)
    (alone / "README.md").unlink()
    seen = Seen()
    assert [bad.path for bad in store.verify(alone, seen).problems] == [
        "README.md",
        "activations.zarr/layers/2/resid_post/c/1/0/0",
    ]
    total, done = seen.tasks["verify"]
    assert total == done > 100_000
    with on_workers(cluster, "store.verify", "_sha256", _no_hash):
        assert len(store.verify(alone).problems) == len(content(alone))


def _no_hash(path: Path) -> str:
    return "none"


def test_a_worker_that_cannot_follow_the_plan_refuses_to_append(
    tmp_path: Path, alone: Path, model: ModelConfig, text: CorpusConfig, cluster: Cluster
) -> None:
    interrupt_after_first_shard(tmp_path / "s", model, text)
    before = content(tmp_path / "s")
    with (
        on_workers(cluster, "stages.harvest.plan", "cpu_capability", _another_machine),
        pytest.raises(Problem, match="cannot continue the harvest") as refused,
    ):
        harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
    assert "another machine" in str(refused.value.found) and "worker process" in str(refused.value.where)
    assert content(tmp_path / "s") == before
    harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
    assert content(tmp_path / "s") == content(alone)


def _another_machine() -> str:
    return "another machine"


def test_whatever_else_a_worker_runs_into_is_one_message(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, cluster: Cluster
) -> None:
    gone = replace(model, source=str(tmp_path / "gone"))
    job = Job(tmp_path / "nowhere", "f" * 64, CONFIG, gone)
    with pytest.raises(Problem, match="not here") as unseen:
        Shared(cluster, job).decide(1000)
    assert "all workers see it" in str(unseen.value.do)
    with pytest.raises(Problem, match="failed to compute the plan") as failed:
        Shared(cluster, replace(job, folder=None)).decide(1000)  # type: ignore[arg-type]
    assert "TypeError" in str(failed.value.found)


def test_shards_computed_twice_are_written_once(
    tmp_path: Path, alone: Path, model: ModelConfig, text: CorpusConfig, cluster: Cluster
) -> None:
    interrupt_after_first_shard(tmp_path / "s", model, text)
    job = Job(tmp_path / "s", store.open(alone).manifest.fingerprint, CONFIG, model)
    addresses = list(cluster.client.nthreads())
    twice = [
        cluster.client.submit(worker.write_shard, job, shard, workers=[address], pure=False)
        for shard in (1, 2, 3)
        for address in addresses
    ]
    harvest(tmp_path / "s", CONFIG, model, text, cluster=cluster)
    records = cluster.client.gather(twice)
    assert records[::2] == records[1::2]
    assert content(tmp_path / "s") == content(alone)


def test_a_worker_that_comes_too_late_writes_nothing(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store was replaced, or finished, while it computed."""
    folder = tmp_path / "s"
    interrupt_after_first_shard(folder, model, text)
    job = Job(folder, Manifest.load(folder).fingerprint, CONFIG, model)

    def late(then: Callable[[], object]) -> None:
        def harvest_shard(*arguments: Any) -> Any:
            payload = activations.harvest_shard(*arguments)
            then()
            return payload

        with monkeypatch.context() as patch, pytest.raises(Problem, match="not here"):
            patch.setattr(worker, "harvest_shard", harvest_shard)
            worker.write_shard(job, 2)

    def replace_store() -> None:
        store.remove_store(folder)
        interrupt_after_first_shard(folder, model, text, replace(CONFIG, heldout=0.3))

    late(replace_store)
    assert not any("/c/2/0/0" in name for name in content(folder))
    store.remove_store(folder)
    interrupt_after_first_shard(folder, model, text)
    late(lambda: harvest(folder, CONFIG, model, text))
    assert store.verify(folder).problems == []


def test_the_command_line_shares_the_work(project: TinyProject, cluster: Cluster) -> None:
    asked = ("harvest", "--tokens", "640", "--layer", "0", "--layer", "2")
    status, out, err = project(*asked, "--scheduler", cluster.client.scheduler.address)
    assert status == 0, err
    assert "harvested" in out and "tokens/s" in out
    (shared,) = (project.root / "data/stores").glob("tiny-L0-2-????????")
    status, out, err = project(*asked, "--store", "alone")
    assert status == 0, err
    assert set(store.open(shared).layers) == {0, 2}
    assert store.open(shared).root == store.open(project.root / "alone").root


def test_the_command_line_names_workers_that_cannot_be(project: TinyProject) -> None:
    project.patch.setattr("stages.harvest.cluster.ANSWER", 0.5)
    active = engine._active_client()
    status, _, err = project("harvest", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    assert status == 2 and "--workers or --scheduler" in err
    assert project("harvest", "--workers", "0")[0] == 2
    for address in ("tcp://127.0.0.1:1", "nonsense", "http://x"):
        with dask.config.set(scheduler="synchronous"):
            status, _, err = project("harvest", "--scheduler", address)
            assert dask.config.get("scheduler") == "synchronous"  # which a client that fails does not put back
        assert status == 1 and address in err and "Traceback" not in err, err
        assert engine._active_client() is active  # a client that failed would be waited for, by all that follows
    assert not (project.root / "data").exists()


def test_a_dry_run_says_how_the_threads_are_shared(project: TinyProject) -> None:
    status, out, err = project("harvest", "--workers", "2", "--dry-run")
    assert status == 0, err
    assert "2, CPU threads in each: 1" in out and not (project.root / "data").exists()


def test_a_harvest_whose_workers_are_all_gone_says_so(
    tmp_path: Path, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.harvest.shared.LOOK", 0.05)
    monkeypatch.setattr("stages.harvest.shared.PATIENCE", 0.2)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as none,
        Client(none) as client,
        pytest.raises(Problem, match="have died"),
    ):
        Shared(Cluster(client, 1, elastic=False), Job(tmp_path, "0" * 64, CONFIG, model)).decide(1000)
