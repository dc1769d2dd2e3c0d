"""Worker processes that share a harvest: a Dask cluster on this machine, or one that runs already on many."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker

import dask
import torch
from distributed import Client, LocalCluster, Security
from distributed.comm import connect

from store.problem import Problem
from store.progress import Progress

IN_FLIGHT = 2
"""Shards that a worker has at a time: it computes one while it writes the other."""

DEATHS = 3
"""Workers that a shard may outlive: it is given up with the next one that dies."""

ANSWER = 10.0
"""Seconds that a scheduler has to answer."""


@dataclass(frozen=True)
class Cluster:
    """Where shards are computed."""

    client: Client
    """The active Dask client, on which statistics and checks of the store run as well."""

    threads: int
    """CPU threads of torch in a worker; decided here, recorded in the plan of a new store."""

    elastic: bool
    """Whether workers may still come when there are none, as they do from the queue of a batch system."""

    @property
    def n_workers(self) -> int:
        """Worker processes at this moment."""
        return len(self.client.scheduler_info()["workers"])


def threads_for(workers: int) -> int:
    """CPU threads of each of `workers` processes that share what one process would use of this machine."""
    return max(1, torch.get_num_threads() // workers)


@contextmanager
def local_cluster(workers: int) -> Iterator[Cluster]:
    """A cluster of `workers` processes on this machine, which end with the block or with this process.

    They are being started when the block begins, so that the text can be tokenised meanwhile.
    """
    with (
        _settings(),
        _empty_cluster() as processes,
        Client(processes) as client,
    ):
        processes.scale(workers)
        try:
            yield Cluster(client, threads_for(workers), elastic=False)
        finally:
            _kill(processes)


def _empty_cluster() -> LocalCluster:
    """A cluster whose processes do not see Ctrl-C, which the terminal sends to all: this process ends them.

    They inherit that from the thread that starts them, and it from the one that makes the cluster.
    """
    resource_tracker.ensure_running()  # it is started with the first process otherwise, and lets SIGINT through then
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return LocalCluster(
            n_workers=0,
            threads_per_worker=IN_FLIGHT,
            processes=True,
            memory_limit=None,
            preload=["stages.harvest.worker"],  # imported by all at once, instead of by each with its first shard
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # of a page of facts that even then is served
            silence_logs=logging.CRITICAL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _kill(processes: LocalCluster) -> None:
    """End the workers at once, in the middle of a shard or of their start: what counts is recorded by now."""
    for nanny in processes.workers.values():
        nanny.close_gracefully()  # says only that a worker which goes away is not to be replaced
        if nanny.pid:
            with suppress(ProcessLookupError):  # it died by itself, and its nanny has not noticed yet
                os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def remote_cluster(address: str, progress: Progress) -> Iterator[Cluster]:
    """The cluster whose scheduler answers at `address`, once it has a worker; it is left as it was.

    Raises Problem where nobody answers.
    """
    with _settings():
        try:
            asyncio.run(_reach(address))
        except (OSError, ValueError) as error:
            raise Problem(
                "No Dask scheduler answers there.",
                where=address,
                expected="an address as `dask scheduler` prints it, such as tcp://10.0.0.1:8786",
                found=error,
            ) from None
        with Client(address, timeout=ANSWER) as client:
            if not client.scheduler_info()["workers"]:
                progress.note(f"waiting for the first worker of {address}")
                client.wait_for_workers(1)
            yield Cluster(client, min(client.nthreads().values()), elastic=True)


async def _reach(address: str) -> None:
    """Connect once. A client that fails to would stay behind as this process's default one, which never answers."""
    comm = await connect(address, timeout=ANSWER, **Security().get_connection_args("client"))
    await comm.close()


@contextmanager
def _settings() -> Iterator[None]:
    """Dask's own settings while a cluster is in use: as they were afterwards, even if a client could not be made.

    What Dask logs of workers that come and go is not for the user, who gets a Problem where it matters.
    """
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with dask.config.set({"scheduler": None, "distributed.scheduler.allowed-failures": DEATHS}):
            yield
    finally:
        logger.setLevel(level)
