"""Moving many files at once, a few in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

from store.progress import Progress
from store.remote import Unreachable
from store.verify import BadFile

THREADS = 4
"""Files that are moved at once, each whole in memory."""


class Moved(NamedTuple):
    """What became of one file."""

    n_bytes: int
    """Bytes that went over the line; 0 where the file was there already."""
    bad: BadFile | None = None
    """Why it was not moved."""


def move(
    work: Callable[[str], Moved], sizes: Mapping[str, int], task: str, progress: Progress
) -> tuple[int, list[BadFile]]:
    """Call `work` for every file of `sizes` (name -> bytes, for the progress) in threads.

    Returns the bytes that were moved, and every file that is not what it should be. The first exception stops what has
    not begun; where it is `Unreachable`, it says how far the work got.
    """
    progress.start(task, sum(sizes.values()), "B")
    n_bytes, n_done, bad = 0, 0, []
    threads = ThreadPoolExecutor(THREADS)
    try:
        names = {threads.submit(work, name): name for name in sorted(sizes)}
        for future in as_completed(names):
            moved = future.result()
            progress.advance(sizes[names[future]])
            n_bytes += moved.n_bytes
            n_done += 1
            bad += [moved.bad] if moved.bad else []
    except Unreachable as problem:
        raise Unreachable(
            problem.what,
            where=problem.where,
            found=f"{problem.found}; {n_done} of {len(sizes)} files are done",
            do="check the network, and run the same command again: it goes on from there",
        ) from problem
    finally:
        threads.shutdown(cancel_futures=True)
    return n_bytes, sorted(bad)
