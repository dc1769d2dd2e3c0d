"""Windows are views of the files, copies are the same numbers, and wrong requests are answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from store import ActivationStore
from store.problem import Problem
from tests.store.make import CONTEXT, LAYERS, N_ROWS, content, make, text
from tests.store.make import activations as stored


def bits(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.uint16).numpy()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_window_is_the_stored_sequence(tmp_path: Path, dtype: str) -> None:
    activations = make(tmp_path / "store", dtype)
    for layer, d in LAYERS.items():
        for row in range(N_ROWS):
            window = activations.window(layer, row)
            assert window.shape == (CONTEXT, d) and window.dtype == getattr(torch, dtype)
            assert window.view(torch.uint8).numpy().tobytes() == stored(layer, row, dtype).tobytes()


def test_a_window_is_a_view_of_the_map(activations: ActivationStore) -> None:
    row_bytes = CONTEXT * LAYERS[3] * 2
    assert activations.window(3, 5).data_ptr() == activations.window(3, 5).data_ptr()
    assert activations.window(3, 7).data_ptr() - activations.window(3, 5).data_ptr() == 2 * row_bytes


def test_a_window_lies_in_the_mapped_file(activations: ActivationStore) -> None:
    pointer = activations.window(3, 20).data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= pointer < end:
            assert line.endswith("layers/3/resid_post/c/1/0/0")
            assert pointer - start == 4 * CONTEXT * LAYERS[3] * 2
            return
    raise AssertionError("the window is in no mapping")


def test_a_shard_that_vanished_is_answered(activations: ActivationStore) -> None:
    (activations.path / "activations.zarr/layers/3/resid_post/c/2/0/0").unlink()
    assert activations.window(3, 0).shape == (CONTEXT, 4)
    with pytest.raises(Problem, match=r"c/2/0/0[\s\S]*No such file"):
        activations.read(3, [0, 42])


@pytest.mark.parametrize("come_back", [False, True])
def test_two_stores_of_one_name_are_never_mixed(tmp_path: Path, come_back: bool) -> None:
    """What was mapped stays readable; nothing is mapped from a folder that has taken the first one's place."""
    first = make(tmp_path / "store")
    window = first.window(3, 0).clone()
    (tmp_path / "store").rename(tmp_path / "aside")
    make(tmp_path / "store", seed=1)
    for read in (lambda: first.read(3, [20]), lambda: first.read(11, [0]), lambda: first.tokens([0])):
        with pytest.raises(Problem, match="replaced or removed while it was read"):
            read()
    assert torch.equal(first.window(3, 0), window)
    if come_back:
        (tmp_path / "store").rename(tmp_path / "other")
        (tmp_path / "aside").rename(tmp_path / "store")
        assert torch.equal(first.read(3, [20]), make(tmp_path / "again").read(3, [20]))


def test_a_store_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    first = make(tmp_path / "store")
    window = first.window(3, 0).clone()
    (tmp_path / "store").rename(tmp_path / "aside")
    for read in (lambda: first.read(3, [20]), lambda: first.read(11, [0])):
        with pytest.raises(Problem, match="No such file"):
            read()
    assert torch.equal(first.window(3, 0), window)


def test_the_first_window_of_a_shard_starts_a_page(activations: ActivationStore) -> None:
    assert activations.window(3, 16).data_ptr() % 4096 == 0


def test_writing_to_a_window_never_reaches_the_file(activations: ActivationStore) -> None:
    before = content(activations.path)
    activations.window(3, 5).fill_(0)
    assert content(activations.path) == before


def test_read_copies_rows_in_the_order_asked_for(activations: ActivationStore) -> None:
    rows = [42, 0, 17, 0, 31]
    expected = np.stack([stored(11, row) for row in rows])
    assert np.array_equal(bits(activations.read(11, rows)), expected)
    out = torch.empty((5, CONTEXT, 6), dtype=torch.bfloat16)
    assert activations.read(11, np.array(rows), out) is out
    assert np.array_equal(bits(out), expected)


def test_read_owns_its_memory(activations: ActivationStore) -> None:
    activations.read(3, [5]).fill_(0)
    assert np.array_equal(bits(activations.window(3, 5)), stored(3, 5))


@pytest.mark.parametrize(
    "out",
    [
        torch.empty((1, CONTEXT, 4), dtype=torch.bfloat16),
        torch.empty((2, CONTEXT, 4), dtype=torch.float16),
        torch.empty((2, CONTEXT, 4), dtype=torch.uint16),
        torch.empty((2, 4, CONTEXT), dtype=torch.bfloat16).mT,
    ],
)
def test_read_refuses_an_array_that_does_not_fit(activations: ActivationStore, out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="out is"):
        activations.read(3, [0, 1], out)


@pytest.mark.parametrize("row", [-1, N_ROWS])
def test_rows_that_do_not_exist_are_refused(activations: ActivationStore, row: int) -> None:
    for call in (lambda: activations.window(3, row), lambda: activations.tokens([0, row])):
        with pytest.raises(IndexError):
            call()


def test_tokens_documents_and_splits(activations: ActivationStore) -> None:
    rows = [3, 40, 16]
    packed = list(text())
    assert np.array_equal(activations.tokens(rows), np.concatenate([packed[row][1] for row in rows]))
    assert np.array_equal(activations.document(rows), np.concatenate([packed[row][2] for row in rows]))
    for split in ("train", "heldout"):
        assert activations.rows(split).tolist() == [row for row in range(N_ROWS) if packed[row][0] == split]
    documents = activations.documents
    assert list(documents.columns) == ["id", "source", "label", "split", "n_tokens"]
    assert len(documents) == 2 * N_ROWS and documents["id"][9] == "document 4.1"
    assert documents["label"][8] == "label" and documents["label"].isna()[9]


def test_facts_of_the_manifest(activations: ActivationStore) -> None:
    manifest = json.loads((activations.path / "manifest.json").read_text())
    assert activations.root == manifest["root"] and activations.request == manifest["request"]
    assert activations.layers == LAYERS and activations.dtype == "bfloat16"
    assert (activations.context, activations.n_sequences) == (CONTEXT, N_ROWS)
    assert activations.plan == {"threads": 1}


def test_an_unknown_layer_or_split_is_answered(activations: ActivationStore) -> None:
    with pytest.raises(Problem, match="one of 3, 11"):
        activations.window(4, 0)
    with pytest.raises(Problem, match="harvest --layer 19"):
        activations.statistics(19)
    with pytest.raises(Problem, match="train or heldout"):
        activations.rows("test")


def test_a_folder_without_a_store_is_answered(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(Problem, match="not an activation store") as problem:
            store.open(folder)
        assert str(folder) in str(problem.value)
