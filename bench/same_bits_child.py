"""What every row of the table trains with the code of one tree, for `bench/same_bits.py`, which starts this in it.

PYTHONPATH=TREE python same_bits_child.py STORE    JSON: by size and row, a digest and the row's modules
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import store
from pipeline.params import read_params
from stages.sae.table import find_variant, load_variants
from stages.sae.variant import Variant
from stages.train.checkpoint import read_checkpoint
from stages.train.config import TrainConfig, make_config
from stages.train.guards import Collapse
from stages.train.identity import code_of
from stages.train.loop import train
from stages.train.run import METRICS
from store import ActivationStore
from store.files import files_below
from tests.train import small

FEW = 16
"""Steps at the profile's sizes, with schedules that fit them."""


def digest_of(folder: Path) -> str:
    """sha256 of all that a training leaves behind but for facts about the machine and the code."""
    checkpoint = read_checkpoint(folder)
    assert checkpoint is not None
    found = hashlib.sha256(str(checkpoint.step).encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for path in files_below(folder / METRICS):
        if path.suffix == ".tsv":
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def digests(row: Variant, config: TrainConfig, activations: ActivationStore) -> dict[str, Any]:
    """What a training comes to, and the modules that it runs."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Collapse):  # at the last step, of what so few have taught too little
            train(config, activations, max(activations.layers), Path(folder) / "run")
        return {"trained": digest_of(Path(folder) / "run"), "code": code_of(row)}


def main(place: str) -> None:
    torch.set_num_threads(1)
    table = load_variants(Path("variants.yaml"))
    names = [name for name, row in table.items() if row.control is None]
    names += [name + control for name in names if table[name].temporal for control in ("+no-temporal", "+permuted")]
    sizes, real = read_params(Path.cwd()).profile.train, store.open(place)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        little = small.make_store(Path(folder) / "store")
        for row in (find_variant(table, name) for name in names):
            config = small.config(small.scaled(row), steps=40)
            found[f"{row.name}, small"] = digests(row, config, little)
            config = make_config(small.scaled(row, FEW), sizes, seed=0, steps=FEW)
            found[row.name] = digests(row, replace(config, checkpoint_every=FEW - 1), real)
            print(row.name, file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
