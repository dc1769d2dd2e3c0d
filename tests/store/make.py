"""Small stores of known content, for the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import store.manifest
from store import ActivationStore, StoreSpec, StoreWriter
from store.layout import STORAGE
from store.progress import SILENT, Progress

CONTEXT = 8
LAYERS = {3: 4, 11: 6}
N_ROWS = 43
CARD_FACTS = {"Language model": "none", "Text": "random | numbers"}


def spec(dtype: str = "bfloat16", **request: object) -> StoreSpec:
    return StoreSpec({"test": "store", "dtype": dtype, **request}, CONTEXT, dtype, LAYERS)


def small_shards(rows: int = 16) -> None:
    """Make shards of `rows` sequences, for a process of its own."""
    store.manifest.SHARD_BYTES = rows * CONTEXT * max(LAYERS.values()) * 2


def text(n_rows: int = N_ROWS) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Per row: split, token ids and document ids. Documents span rows; every row has BOS, some have padding."""
    rng = np.random.default_rng(5)
    number = 0
    for row in range(n_rows):
        split = "heldout" if row % 5 == 4 else "train"
        tokens = rng.integers(0, 1000, (1, CONTEXT), dtype=np.int32)
        document = np.repeat([[number, number + 1]], CONTEXT // 2, axis=1).astype(np.int32)
        document[0, 0] = -1
        document[0, CONTEXT - row % 3 :] = -1
        number += 2
        yield split, tokens, document


def activations(layer: int, row: int, dtype: str = "bfloat16", seed: int = 0) -> np.ndarray:
    """What the tests store for a sequence: [context, d] in storage type."""
    x = (
        np.random.default_rng([layer, row, *[seed] * (seed > 0)])
        .normal(3.0, 10.0, (CONTEXT, LAYERS[layer]))
        .astype(np.float32)
    )
    if dtype == "bfloat16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(STORAGE[dtype])


def write_sequences(writer: StoreWriter, n_rows: int = N_ROWS) -> None:
    with writer.sequences() as out:
        for row, (split, tokens, document) in enumerate(text(n_rows)):
            for half in range(2):
                out.add_document(f"document {row}.{half}", "test", None if half else "label", split, 4)
            out.add_rows(tokens, document)


def write_shard(writer: StoreWriter, shard: int, dtype: str = "bfloat16", seed: int = 0) -> None:
    rows = writer.shard_rows(shard)
    payload = {layer: np.stack([activations(layer, row, dtype, seed) for row in rows]) for layer in LAYERS}
    writer.write_shard(shard, payload)


def write(
    folder: Path, dtype: str = "bfloat16", *, n_rows: int = N_ROWS, seed: int = 0, progress: Progress = SILENT
) -> str:
    """Create the store, or go on with it, to the end; returns the root digest. Another seed, other activations."""
    with StoreWriter.open(folder, spec(dtype), {"threads": 1}, progress=progress) as writer:
        if writer.n_sequences is None:
            write_sequences(writer, n_rows)
        for shard in writer.missing_shards():
            write_shard(writer, shard, dtype, seed)
        return writer.finish(CARD_FACTS)


def make(folder: Path, dtype: str = "bfloat16", **options: int) -> ActivationStore:
    write(folder, dtype, **options)
    return store.open(folder)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
