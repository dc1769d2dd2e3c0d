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

from tests.forks import fork
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


def run(folder: Path, prepare: Callable[[], object], kill_after: float | None = None) -> bool:
    """Write the store in a child; returns whether the child was killed before it had finished."""
    child = fork()
    if child == 0:
        prepare()
        make.write(folder)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    outcome = os.waitstatus_to_exitcode(status)
    if outcome not in (0, -signal.SIGKILL):
        sys.exit(f"the writer ended with {outcome}")
    return outcome != 0


def main(folder: Path, seed: int, n_steps: int, n_times: int) -> None:
    make.small_shards()
    rng = random.Random(seed)
    begun = time.monotonic()
    run(folder / "undisturbed", lambda: None)
    duration = time.monotonic() - begun
    expected = make.content(folder / "undisturbed")
    for number in range(n_steps + n_times):
        place = folder / f"run{number}"
        killed = 0
        while True:
            if number < n_steps:
                step = rng.randrange(1, 200)
                died = run(place, lambda step=step: die_at(step))  # type: ignore[misc]
            else:
                died = run(place, lambda: None, kill_after=rng.random() * duration)
            killed += died
            if killed == 3 or not died:
                break
        run(place, lambda: None)
        print(json.dumps({"killed": killed, "equal": make.content(place) == expected}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
