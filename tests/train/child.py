"""A training in a process of its own, which prints every step: `python child.py STORE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import store
from stages.train import train
from tests.train import small


class Printing:
    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.done = done

    def advance(self, amount: int) -> None:
        self.done += amount
        print(self.done, flush=True)

    def note(self, line: str) -> None: ...


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind = sys.argv[3]
    train(small.killed_config(kind), store.open(sys.argv[1]), small.LAYER, Path(sys.argv[2]), Printing())
