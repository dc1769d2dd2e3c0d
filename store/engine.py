"""Work on many shards at once, with Dask: in the threads of this process, or on the cluster of the active client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
from dask.callbacks import Callback
from dask.delayed import Delayed


def compute(tasks: Sequence[Delayed], finished: Callable[[int], None]) -> list[Any]:
    """The results of `tasks`, in their order; `finished(i)` is called as soon as that of task i is there."""
    if dask.config.get("scheduler", None) == "dask.distributed":  # what an active client sets
        return _compute_on_cluster(tasks, finished)
    places = {task.key: place for place, task in enumerate(tasks)}

    def after(key: object, *_: object) -> None:
        if key in places:
            finished(places[key])

    with Callback(posttask=after):
        return list(dask.compute(*tasks))


def _compute_on_cluster(tasks: Sequence[Delayed], finished: Callable[[int], None]) -> list[Any]:
    from distributed import as_completed, default_client

    client = default_client()
    futures = client.compute(list(tasks))
    places = {future.key: place for place, future in enumerate(futures)}
    for future in as_completed(futures):
        finished(places[future.key])
    return client.gather(futures)
