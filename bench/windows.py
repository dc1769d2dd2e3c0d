"""Random window reads beside memcpy and what peers read with: zarr-python, NumPy's memory map, tensorstore, datasets.

    python -m bench.windows [--width 2304] [--rows 2048] [--rounds 15]

Every round draws four times 16 windows of 128 x width bfloat16 at random and copies each 16 into one preallocated
array, in one thread, by every method in random order. memcpy of as many bytes from rows scattered over as large an
array in memory is timed right before and right after; the figure is memcpy's time over the reads', round by round.
Warm: all files were read before. Cold: seconds of one read after the page cache was dropped, the files opened anew.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tensorstore
import torch
import zarr
from datasets import Array2D, Dataset, Features

import store
from bench.machine import record
from store import StoreSpec, StoreWriter
from store.files import files_below

LAYER, CONTEXT, BATCH = 0, 128, 16
NPY, DATASET = "x.npy", "dataset"
READS, COLD_ROUNDS = 4, 5
Read = Callable[[np.ndarray], None]
"""Copies the windows of some rows into an array [16, 128, width] of uint16 that it was made for."""


def write(folder: Path, n_rows: int, width: int) -> Path:
    """A store of random activations."""
    rng = np.random.default_rng(0)
    spec = StoreSpec({"bench": "windows"}, CONTEXT, "bfloat16", {LAYER: width})
    with StoreWriter.open(folder, spec) as writer:
        with writer.sequences() as out:
            for _ in range(n_rows):
                document = out.add_document("d", "bench", None, "train", CONTEXT)
                ids = np.full((1, CONTEXT), document, np.int32)
                out.add_rows(np.zeros_like(ids), ids)
        for shard in writer.missing_shards():
            x = torch.from_numpy(rng.standard_normal((len(writer.shard_rows(shard)), CONTEXT, width), np.float32))
            writer.write_shard(shard, {LAYER: x.bfloat16().view(torch.uint16).numpy()})
        writer.finish({})
    return folder


def ours(folder: Path, out: np.ndarray) -> Read:
    """`ActivationStore.read`."""
    opened, x = store.open(folder), torch.from_numpy(out).view(torch.bfloat16)

    def read(rows: np.ndarray) -> None:
        opened.read(LAYER, rows, x)

    return read


def row_by_row(array: Any, out: np.ndarray) -> Read:
    """Indexing with one number, a window at a time."""

    def read(rows: np.ndarray) -> None:
        for i, row in enumerate(rows.tolist()):
            out[i] = array[row]

    return read


def zarr_python(folder: Path, out: np.ndarray) -> Read:
    """zarr-python's indexing, a window at a time, which is faster than `oindex` with all of them."""
    return row_by_row(zarr.open_array(folder / f"activations.zarr/layers/{LAYER}/resid_post", mode="r"), out)


def numpy_map(folder: Path, out: np.ndarray) -> Read:
    """`np.load(mmap_mode="r")` of one file with the same rows, kept open."""
    return row_by_row(np.load(folder / NPY, mmap_mode="r"), out)


def write_npy(folder: Path) -> None:
    opened = store.open(folder)
    shape = (opened.n_sequences, CONTEXT, opened.layers[LAYER])
    copy = np.lib.format.open_memmap(folder / NPY, mode="w+", dtype=np.uint16, shape=shape)
    for row in range(len(copy)):
        copy[row] = opened.window(LAYER, row).view(torch.uint16).numpy()
    copy.flush()


def tensor_store(folder: Path, out: np.ndarray) -> Read:
    """tensorstore over the same Zarr array, with one thread for copies and one for files."""
    context = tensorstore.Context(
        {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}, "cache_pool": {}}
    )
    path = str(folder / f"activations.zarr/layers/{LAYER}/resid_post")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    array = tensorstore.open(spec, context=context, read=True).result()

    def read(rows: np.ndarray) -> None:
        tensorstore.array(out, write=True)[...].write(array[rows]).result()

    return read


def hugging_face(folder: Path, out: np.ndarray) -> Read:
    """A dataset of the same windows in torch format, memory-mapped from Arrow files."""
    dataset = Dataset.load_from_disk(str(folder / DATASET)).with_format("torch")

    def read(rows: np.ndarray) -> None:
        x = dataset[rows]["x"]
        out[:] = x.numpy() if isinstance(x, torch.Tensor) else torch.stack(list(x)).numpy()

    return read


def write_dataset(folder: Path) -> None:
    opened = store.open(folder)

    def rows() -> Iterator[dict[str, np.ndarray]]:
        for row in range(opened.n_sequences):
            yield {"x": opened.window(LAYER, row).view(torch.uint16).numpy()}

    datasets.disable_progress_bars()
    features = Features({"x": Array2D((CONTEXT, opened.layers[LAYER]), "uint16")})
    made = Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"), writer_batch_size=64)
    made.save_to_disk(folder / DATASET)


METHODS: dict[str, Callable[[Path, np.ndarray], Read]] = {
    "store": ours,
    "zarr-python": zarr_python,
    "np.load": numpy_map,
    "tensorstore": tensor_store,
    "datasets, torch format": hugging_face,
}


def seconds(read: Read, *rows: np.ndarray) -> float:
    begun = time.perf_counter()
    for batch in rows:
        read(batch)
    return time.perf_counter() - begun


def memcpy(source: np.ndarray, out: np.ndarray) -> Read:
    """Rows scattered over an array in memory."""

    def read(rows: np.ndarray) -> None:
        for i, row in enumerate(rows.tolist()):
            np.copyto(out[i], source[row])

    return read


def warm(reads: dict[str, Read], source: np.ndarray, out: np.ndarray, rounds: int) -> dict[str, dict[str, Any]]:
    """Median and quartiles of memcpy's time over each method's."""
    copy, rng, order = memcpy(source, out), np.random.default_rng(1), random.Random(1)
    for read in reads.values():
        for start in range(0, len(source) - BATCH + 1, BATCH):
            read(np.arange(start, start + BATCH))
    ratios: dict[str, list[float]] = {name: [] for name in reads}
    rates: dict[str, list[float]] = {name: [] for name in [*reads, "memcpy"]}
    for _ in range(rounds):
        for name in order.sample(list(reads), len(reads)):
            rows = rng.choice(len(source), (READS, BATCH), replace=False)
            before = seconds(copy, *rows)
            taken = seconds(reads[name], *rows)
            expected = (before + seconds(copy, *rows)) / 2
            ratios[name].append(expected / taken)
            rates[name].append(READS * out.nbytes / taken / 1e9)
            rates["memcpy"].append(READS * out.nbytes / expected / 1e9)
    return {
        name: {
            "of_memcpy": round(statistics.median(ratios[name]), 4) if name in ratios else 1.0,
            "quartiles": [round(q, 4) for q in statistics.quantiles(ratios[name], n=4)[::2]] if name in ratios else [],
            "gigabytes_per_second": round(statistics.median(of), 3),
        }
        for name, of in rates.items()
    }


def cold(folder: Path, n_rows: int, out: np.ndarray) -> dict[str, float]:
    """Median seconds of a read right after opening, with no file in the page cache.

    Each time the method is opened anew: pages that are mapped stay in the cache whoever asks to drop them.
    """
    rng = np.random.default_rng(2)
    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(COLD_ROUNDS):
        for name, method in METHODS.items():
            gc.collect()
            for path in files_below(folder):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            taken[name].append(seconds(method(folder, out), rng.choice(n_rows, BATCH, replace=False)))
    return {name: round(statistics.median(times), 4) for name, times in taken.items()}


def check(reads: dict[str, Read], folder: Path, out: np.ndarray) -> None:
    """All methods read the same."""
    opened = store.open(folder)
    rows = np.arange(BATCH) * 7 % opened.n_sequences
    expected = opened.read(LAYER, rows).view(torch.uint16).numpy()
    for name, read in reads.items():
        read(rows)
        assert np.array_equal(out, expected), f"{name} reads something else"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(Path(temporary) / "store", arguments.rows, arguments.width)
        write_npy(folder)
        write_dataset(folder)
        source = np.random.default_rng(3).integers(0, 2**16, (arguments.rows, CONTEXT, arguments.width), np.uint16)
        out = np.zeros((BATCH, CONTEXT, arguments.width), np.uint16)
        reads = {name: method(folder, out) for name, method in METHODS.items()}
        check(reads, folder, out)
        figures = warm(reads, source, out, arguments.rounds)
        rate = figures["store"]["of_memcpy"]
        over = {name: round(rate / figures[name]["of_memcpy"], 1) for name in reads if name != "store"}
        reads.clear()  # their maps would keep pages in the cache
        record(
            f"windows-{arguments.width}",
            {
                "windows": BATCH,
                "context": CONTEXT,
                "width": arguments.width,
                "store_gigabytes": round(source.nbytes / 1e9, 2),
                "rounds": arguments.rounds,
                "warm": figures,
                "store_over": over,
                "cold_seconds": cold(folder, arguments.rows, out),
            },
        )


if __name__ == "__main__":
    main()
