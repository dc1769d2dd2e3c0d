"""The harvest's forward passes on the workers of a cluster.

This process, the coordinator, holds the store's lock and its manifest, and hands out shards. No activations travel: a
worker reads the tokens from the store and writes its shards into it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from distributed import Future, wait

from stages.harvest import worker
from stages.harvest.activations import start_bar
from stages.harvest.cluster import IN_FLIGHT, Cluster
from stages.harvest.plan import HarvestPlan
from stages.harvest.selfcheck import SelfCheck
from stages.harvest.worker import Job
from store import StoreWriter
from store.engine import GO_ON, answered
from store.problem import Problem
from store.progress import SILENT, Progress

LOOK = 2.0
"""Seconds without an answer after which the coordinator looks which workers there are."""

PATIENCE = 120.0
"""Seconds without any worker after which a local cluster is given up, and another one is remarked upon."""

T = TypeVar("T")


class Shared:
    """The workers of a cluster and the models in them."""

    def __init__(self, cluster: Cluster, job: Job) -> None:
        self.cluster = cluster
        self.job = job
        self._seen = time.monotonic()

    def decide(self, tokens: int) -> tuple[HarvestPlan, str | None]:
        """The plan of a worker's machine for `tokens` positions, and a notice where there is something to say."""
        return self._one("the plan", worker.decide_plan, tokens, self.cluster.threads)

    def run(self, writer: StoreWriter, progress: Progress) -> tuple[float, SelfCheck]:
        """Fill every missing shard, in whatever order they come, under the recorded plan; then check the whole.

        Returns the seconds that the shards took, loading and compiling in the workers included, and what the check saw.
        """
        start_bar(writer, self.job.config, progress)
        begun = time.monotonic()
        self._fill(writer, progress)
        seconds = time.monotonic() - begun
        return seconds, self._one("the self-check", worker.check)

    def _fill(self, writer: StoreWriter, progress: Progress) -> None:
        waiting = iter(writer.missing_shards())
        running: dict[Future, int] = {}
        while True:
            room = IN_FLIGHT * max(1, self.cluster.n_workers) - len(running)
            for shard in islice(waiting, max(0, room)):
                running[self._submit(worker.write_shard, shard)] = shard
            if not running:
                return
            for future in self._finished(running, progress):
                shard = running.pop(future)
                writer.record_shard(shard, _result(future, f"shard {shard}"))
                progress.advance(len(writer.shard_rows(shard)) * self.job.config.context)

    def _one(self, what: str, task: Callable[..., T], *arguments: Any) -> T:
        """The result of one task."""
        future = self._submit(task, *arguments)
        while not self._finished([future], SILENT):
            pass
        return _result(future, what)

    def _submit(self, task: Callable[..., Any], *arguments: Any) -> Future:
        return self.cluster.client.submit(task, self.job, *arguments, pure=False)

    def _finished(self, running: Iterable[Future], progress: Progress) -> list[Future]:
        """Those of `running` that are done once one is; none after a while, in which workers may have come or gone."""
        try:
            done = wait(list(running), timeout=LOOK, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            self._look(progress)
            return []
        self._seen = time.monotonic()
        return list(done)

    def _look(self, progress: Progress) -> None:
        now = time.monotonic()
        if self.cluster.n_workers:
            self._seen = now
        elif now - self._seen > PATIENCE:
            if not self.cluster.elastic:
                raise Problem("All workers of this harvest have died.", do=GO_ON)
            progress.note("no worker is left; waiting for the next one")
            self._seen = now


def _result(future: Future, what: str) -> Any:
    with answered(what):
        return future.result()
