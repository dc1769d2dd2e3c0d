"""The data of a store opens in stock zarr-python and in tensorstore."""

from __future__ import annotations

import numpy as np
import pytest
import tensorstore
import zarr

from store import ActivationStore
from tests.store.make import LAYERS, N_ROWS, make, text
from tests.store.make import activations as stored


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_zarr_python_reads_the_same_numbers(tmp_path, dtype: str) -> None:
    make(tmp_path / "store", dtype)
    group = zarr.open_group(tmp_path / "store/activations.zarr", mode="r")
    assert np.array_equal(group["tokens"][:], np.concatenate([tokens for _, tokens, _ in text()]))
    assert np.array_equal(group["document"][:], np.concatenate([document for _, _, document in text()]))
    for layer in LAYERS:
        array = group[f"layers/{layer}/resid_post"]
        assert np.array_equal(array[:], np.stack([stored(layer, row, dtype) for row in range(N_ROWS)]))
        assert array.attrs["logical_dtype"] == dtype
        assert group[f"layers/{layer}"].attrs["hook"] == f"blocks.{layer}.hook_resid_post"


def test_zarr_python_reads_the_statistics(activations: ActivationStore) -> None:
    group = zarr.open_group(activations.path / "activations.zarr/layers/11/statistics", mode="r")
    statistics = activations.statistics(11)
    assert np.array_equal(group["mean"][:], statistics.mean)
    assert np.array_equal(group["variance"][:], statistics.variance)
    assert np.array_equal(group["norm_by_position"][:], statistics.norm_by_position, equal_nan=True)
    assert group.attrs["count"] == statistics.count


@pytest.mark.parametrize("name", ["tokens", "document", "layers/3/resid_post", "layers/3/statistics/mean"])
def test_tensorstore_reads_what_zarr_python_reads(activations: ActivationStore, name: str) -> None:
    path = activations.path / "activations.zarr" / name
    opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True)
    assert np.array_equal(opened.result().read().result(), zarr.open_array(path, mode="r")[:])
