"""Work on many shards at once, with Dask: in the threads of this process, or on the cluster of the active client."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.threaded import get as threads

from store.problem import Problem

GO_ON = "run the same command again: it goes on where it stopped"


def compute(tasks: Sequence[Delayed], finished: Callable[[int], None]) -> list[Any]:
    """The results of `tasks`, in their order; `finished(i)` is called as soon as that of task i is there."""
    client = _active_client()
    if client is not None:
        return _compute_on_cluster(client, tasks, finished)
    places = {task.key: place for place, task in enumerate(tasks)}

    def after(key: object, *_: object) -> None:
        if key in places:
            finished(places[key])

    scheduler = dask.config.get("scheduler", None)
    if scheduler in (None, "dask.distributed"):  # a client that was closed may leave its name behind
        scheduler = threads  # by name, Dask would import its cluster first: half a second
    with Callback(posttask=after):
        return list(dask.compute(*tasks, scheduler=scheduler))


def _active_client() -> Any:
    """The client of a cluster, if this process has one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def _compute_on_cluster(client: Any, tasks: Sequence[Delayed], finished: Callable[[int], None]) -> list[Any]:
    from distributed import as_completed

    futures = client.compute(list(tasks))
    places = {future.key: place for place, future in enumerate(futures)}
    with answered("a part of the store"):
        for future in as_completed(futures):
            finished(places[future.key])
        return client.gather(futures)


@contextmanager
def answered(what: str) -> Iterator[None]:
    """Inside, whatever goes wrong on a cluster while it computes `what` becomes a Problem."""
    from distributed import CancelledError, KilledWorker

    try:
        yield
    except Problem:
        raise
    except KilledWorker as error:
        raise Problem(
            f"Workers died again and again while they computed {what}.",
            where=f"the last was {error.last_worker.address}",
            found=f"{error.allowed_failures + 1} deaths",
            do=f"see whether they have too little memory, use fewer of them, then {GO_ON}",
        ) from error
    except (CancelledError, TimeoutError) as error:
        raise Problem("The scheduler of the cluster is gone.", found=error, do=GO_ON) from error
    except Exception as error:
        raise Problem(
            f"A worker failed to compute {what}.",
            found=f"{type(error).__name__}: {error}",
            do="see that all workers have the environment of this process and see the store under the same path",
        ) from error
