"""Trainings in processes of their own: for every line `STORE FOLDER KIND` on stdin a fork trains, and prints its steps.

One process imports everything and only forks, because importing takes longer than these trainings.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import store
from stages.train import train
from tests.forks import fork
from tests.train import small


def report(line: str) -> None:
    """One write, which a SIGKILL cannot cut in two: `print` may make one of every word."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


class Printing:
    """Reports every step as `pid step`."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.done = done

    def advance(self, amount: int) -> None:
        self.done += amount
        report(f"{os.getpid()} {self.done}")

    def note(self, line: str) -> None: ...


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = fork()
        if pid == 0:
            path, folder, kind = line.split()
            train(small.killed_config(kind), store.open(path), small.LAYER, Path(folder), Printing())
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        report(f"ended {os.waitstatus_to_exitcode(status)}")
