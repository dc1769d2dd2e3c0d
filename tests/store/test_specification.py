"""A reader written from STORE.md alone, with numpy and json, agrees with the store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from store import ActivationStore
from tests.store.make import LAYERS, N_ROWS, make

ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
ON_DISK = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4"}


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


class Independent:
    """Sections 2, 3 and 6."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["format"] == "tsae-activation-store" and manifest["version"] == 1
        assert manifest["status"] == "complete" and manifest["digest_algorithm"] == "sha256"
        assert manifest["fingerprint"] == digest(manifest["request"])
        sealed = {"fingerprint": manifest["fingerprint"], "files": manifest["files"]}
        assert manifest["root"] == digest(sealed)
        assert manifest.pop("checksum") == digest(manifest)
        for name, record in manifest["files"].items():
            data = (folder / name).read_bytes()
            assert record == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.n, self.context, self.per_shard = (manifest[key] for key in ("n_sequences", "context", "rows_per_shard"))

    def row(self, array: str, r: int, dtype: str, *shape: int) -> np.ndarray:
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        s, i = divmod(r, self.per_shard)
        n = min(self.per_shard, self.n - s * self.per_shard)
        file = "/".join(["c", str(s), *["0"] * len(shape)])
        data = (self.folder / "activations.zarr" / array / file).read_bytes()
        assert len(data) == n * row_bytes + 16 * self.per_shard + 4
        pairs = [(i * row_bytes, row_bytes) for i in range(n)]
        pairs += [(2**64 - 1, 2**64 - 1)] * (self.per_shard - n)
        index = np.array(pairs, "<u8").tobytes()
        assert data[n * row_bytes :] == index + crc32c(index).to_bytes(4, "little")
        return np.frombuffer(data[i * row_bytes : (i + 1) * row_bytes], dtype).reshape(shape)

    def statistic(self, layer: str, name: str) -> np.ndarray:
        folder = self.folder / "activations.zarr/layers" / layer / "statistics" / name
        (length,) = json.loads((folder / "zarr.json").read_text())["shape"]
        return np.frombuffer((folder / "c/0").read_bytes(), "<f8", length)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_an_independent_reader_reads_the_same(tmp_path: Path, dtype: str) -> None:
    activations = make(tmp_path / "store", dtype)
    independent = Independent(tmp_path / "store")
    assert independent.manifest["dtype"] == dtype and independent.n == N_ROWS
    context = independent.context
    for r in range(0, N_ROWS, 6):
        assert np.array_equal(independent.row("tokens", r, "<i4", context), activations.tokens([r])[0])
        assert np.array_equal(independent.row("document", r, "<i4", context), activations.document([r])[0])
        for layer, facts in independent.manifest["layers"].items():
            window = independent.row(f"layers/{layer}/resid_post", r, ON_DISK[dtype], context, facts["d"])
            assert window.tobytes() == activations.window(int(layer), r).view(torch.uint8).numpy().tobytes()
    for layer in LAYERS:
        for name in ("mean", "variance", "norm_by_position"):
            expected = getattr(activations.statistics(layer), name)
            assert np.array_equal(independent.statistic(str(layer), name), expected, equal_nan=True)


def test_rows_per_shard_and_batches_follow_the_document(activations: ActivationStore) -> None:
    rows = activations.rows("train")
    per_epoch = len(rows) // 5
    for t in (0, 3, per_epoch, 7 * per_epoch + 2):
        e, b = divmod(t, per_epoch)
        order = np.random.Generator(np.random.PCG64([9, e])).permutation(rows)
        batch = activations.windows(3, batch_rows=5, seed=9).batch(t)
        assert np.array_equal(batch.rows, order[b * 5 : (b + 1) * 5])


def test_the_files_are_those_of_the_document(activations: ActivationStore) -> None:
    expected = {"manifest.json", "README.md", "documents.parquet"}
    groups = ["", "layers/", "layers/3/", "layers/11/", "layers/3/statistics/", "layers/11/statistics/"]
    expected |= {f"activations.zarr/{group}zarr.json" for group in groups}
    for name in ("tokens", "document"):
        expected |= {f"activations.zarr/{name}/{file}" for file in ("zarr.json", "c/0/0", "c/1/0", "c/2/0")}
    for layer in (3, 11):
        place = f"activations.zarr/layers/{layer}"
        expected |= {f"{place}/resid_post/{file}" for file in ("zarr.json", "c/0/0/0", "c/1/0/0", "c/2/0/0")}
        for name in ("mean", "variance", "norm_by_position"):
            expected |= {f"{place}/statistics/{name}/{file}" for file in ("zarr.json", "c/0")}
    found = {path.relative_to(activations.path).as_posix() for path in activations.path.rglob("*")}
    assert {name for name in found if (activations.path / name).is_file()} == expected
