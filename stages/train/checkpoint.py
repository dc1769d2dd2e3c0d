"""Checkpoints: one safetensors file, replaced as a whole, from which a run continues to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import safetensors
from safetensors.torch import save as to_bytes
from torch import Tensor

from store.files import canonical_json, write_atomically

NAME = "checkpoint.safetensors"


class Checkpoint(NamedTuple):
    """A run between two steps."""

    step: int
    """Steps done. Batches, schedules and learning rate are functions of it."""
    fingerprint: str
    """What decides the run's content."""
    tensors: dict[str, Tensor]
    """Parameters, optimiser, counters, by name."""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the run's checkpoint."""
    # One entry: safetensors writes several in an order that changes from run to run.
    facts = canonical_json({"step": checkpoint.step, "fingerprint": checkpoint.fingerprint}).decode()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_atomically(folder / NAME, to_bytes(tensors, metadata={"checkpoint": facts}))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The run's checkpoint; None where there is none that can be read."""
    try:
        with safetensors.safe_open(folder / NAME, framework="pt") as file:
            facts = json.loads(file.metadata()["checkpoint"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return None
    return Checkpoint(facts["step"], facts["fingerprint"], tensors)
