"""A store four times larger than the memory that its reader may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from store.files import files_below
from store.manifest import StoreSpec

LIMIT = 512 * 2**20
LAYER, CONTEXT, D = 3, 128, 640
CONTROLLERS = {Path("/sys/fs/cgroup"): "memory.max", Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes"}
"""Where cgroups of version 2 and of version 1 lie, and what limits memory there."""
PEAKS = ("memory.peak", "memory.max_usage_in_bytes")


def limited_cgroup() -> Path | None:
    """A new cgroup that allows `LIMIT` bytes, page cache included; None where none can be made."""
    for parent, limit in CONTROLLERS.items():
        folder = parent / f"tsae-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            with (folder / limit).open("r+") as file:  # a folder that is no cgroup has no such file
                file.write(str(LIMIT))
            return folder
        except OSError:
            folder.rmdir()
    return None


@pytest.fixture
def cgroup() -> Iterator[Path]:
    folder = limited_cgroup()
    if folder is None:
        pytest.skip("no cgroup with a memory limit can be made here")
    yield folder
    folder.rmdir()


def write_large(folder: Path, size: int) -> store.ActivationStore:
    """A store of about `size` bytes: every shard the same random activations."""
    spec = StoreSpec({"model": {"name": "synthetic"}}, CONTEXT, "bfloat16", {LAYER: D})
    n_rows = -(-size // (CONTEXT * D * 2))
    tokens = np.zeros((n_rows, CONTEXT), np.int32)
    document = np.repeat(np.arange(n_rows, dtype=np.int32)[:, None], CONTEXT, axis=1)
    document[:, 0] = -1
    x = torch.randn(spec.rows_per_shard, CONTEXT, D).bfloat16().view(torch.uint16).numpy()
    with store.StoreWriter.open(folder, spec, {}) as writer:
        with writer.sequences() as out:
            for row in range(n_rows):
                out.add_document(f"doc{row}", "test", "", "train" if row % 10 else "heldout", CONTEXT - 1)
            out.add_rows(tokens, document)
        for shard in writer.missing_shards():
            writer.write_shard(shard, {LAYER: x[: len(writer.shard_rows(shard))]})
        writer.finish({})
    return store.open(folder)


def forget(folder: Path) -> None:
    """Drop the files below `folder` from the page cache."""
    for path in files_below(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.slow
def test_training_needs_address_space_and_not_memory(tmp_path: Path, cgroup: Path) -> None:
    opened = write_large(tmp_path / "store", 4 * LIMIT)
    n_bytes = sum(record.size for record in opened.manifest.files.values())
    steps = opened.windows(LAYER).batches_per_epoch
    forget(opened.path)
    child = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("limited.py")),
            *map(str, (cgroup, opened.path, tmp_path / "run", steps)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    held = json.loads(child.stdout)
    peak = next(int((cgroup / name).read_text()) for name in PEAKS if (cgroup / name).exists())
    print(f"store {n_bytes:,} B, limit {LIMIT:,} B, peak of the cgroup {peak:,} B, of the process {held}")
    assert held["steps"] == steps
    assert peak <= LIMIT < n_bytes / 4 < held["VmSize"]
    assert held["RssAnon"] < LIMIT
