"""Trainings that are interrupted, what they leave behind, and what they may forget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import store
from stages.train import TrainConfig, train
from stages.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from store.files import files_below
from tests.train import small


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_below(folder)}


class Stop(BaseException):
    pass


class StopAfter:
    """Stands for whoever interrupts a training."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None: ...

    def advance(self, amount: int) -> None:
        self.left -= amount
        if self.left <= 0:
            raise Stop

    def note(self, line: str) -> None: ...


def interrupted(config: TrainConfig, activations: store.ActivationStore, folder: Path, steps: int) -> Checkpoint:
    """Train and stop after so many steps; the checkpoint that is left."""
    with pytest.raises(Stop):
        train(config, activations, small.LAYER, folder, StopAfter(steps))
    checkpoint = read_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint


def forget(folder: Path, lost: Callable[[str], bool], earlier: Checkpoint) -> None:
    """Give back to a run's checkpoint what an earlier one said, where a name is lost."""
    now = read_checkpoint(folder)
    assert now is not None and any(map(lost, now.tensors)) and earlier.step < now.step
    tensors = {name: earlier.tensors[name] if lost(name) else tensor for name, tensor in now.tensors.items()}
    write_checkpoint(folder, now._replace(tensors=tensors))
