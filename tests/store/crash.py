"""Writes a store again and again and kills the writer with SIGKILL, at every kind of moment.

Run as a program, so that its forked children die and not the tests:

    python crash.py FOLDER SEED N_STEPS N_TIMES     prints one JSON line per killed run
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.forks import in_child
from tests.store import make


def die_at(step: int) -> Callable[[], int]:
    """Kill this process at its `step`-th call that changes the disk, before or after it by turns.

    Returns how many there were so far, for a run that outlives its step.
    """
    calls = 0

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == step and step % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **options)
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper

    os.fsync = watched(os.fsync)
    os.mkdir = watched(os.mkdir)
    Path.replace = watched(Path.replace)  # type: ignore[method-assign]
    Path.unlink = watched(Path.unlink)  # type: ignore[method-assign]
    return lambda: calls


def run(folder: Path, step: int = 0, kill_after: float | None = None) -> bool:
    """Write the store in a child, which may die at a step; returns whether it was killed before it had finished."""
    return in_child(lambda: (die_at(step), make.write(folder)), kill_after)


def main(folder: Path, seed: int, n_steps: int, n_times: int) -> None:
    make.small_shards()
    rng = random.Random(seed)
    begun = time.monotonic()
    run(folder / "undisturbed")
    duration = time.monotonic() - begun
    expected = make.content(folder / "undisturbed")
    for number in range(n_steps + n_times):
        place = folder / f"run{number}"
        killed = 0
        while True:
            if number < n_steps:
                died = run(place, rng.randrange(1, 200))
            else:
                died = run(place, kill_after=rng.random() * duration)
            killed += died
            if killed == 3 or not died:
                break
        run(place)
        print(json.dumps({"killed": killed, "equal": make.content(place) == expected}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
