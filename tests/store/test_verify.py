"""Every damaged, missing or foreign file is found, and every bad file is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import store
from store import ActivationStore
from store.problem import Problem
from tests.store.make import content, make, write

SHARD = "activations.zarr/layers/11/resid_post/c/1/0/0"
TOKENS = "activations.zarr/tokens/c/0/0"
CARD = "README.md"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def replace_by_link(path: Path) -> None:
    elsewhere = path.parents[len(path.parts) - path.parts.index("store") - 1] / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[Callable[[Path], None]] = [
    flip,
    truncate,
    extend,
    Path.unlink,
    replace_by_link,
    replace_by_folder,
    replace_by_pipe,
]


def test_a_sound_store(activations: ActivationStore) -> None:
    activations.check()
    result = store.verify(activations.path)
    files = content(activations.path)
    assert result.problems == [] and result.root == activations.root
    assert result.n_files == len(files) - 1
    assert result.n_bytes == sum(len(data) for name, data in files.items() if name != "manifest.json")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [SHARD, TOKENS, CARD, "documents.parquet", "activations.zarr/zarr.json"])
def test_damage_is_found_refused_and_mended(
    activations: ActivationStore, damage: Callable[[Path], None], name: str
) -> None:
    sound = content(activations.path)
    damage(activations.path / name)
    assert [bad.path for bad in store.verify(activations.path).problems] == [name]
    with pytest.raises(Problem) as problem:
        activations.check()
    assert str(activations.path / name) in str(problem.value)
    if damage is not flip:  # opening looks at sizes; `check` reads
        with pytest.raises(Problem) as problem:
            store.open(activations.path)
        assert str(activations.path / name) in str(problem.value)
    assert write(activations.path) == activations.root
    assert content(activations.path) == sound


def test_every_file_is_covered(activations: ActivationStore) -> None:
    names = sorted(set(content(activations.path)) - {"manifest.json"})
    for name in names:
        flip(activations.path / name)
    assert [bad.path for bad in store.verify(activations.path).problems] == names
    with pytest.raises(Problem) as problem:
        activations.check()
    assert all(str(activations.path / name) in str(problem.value) for name in names)


def test_opening_lists_every_bad_file(activations: ActivationStore) -> None:
    truncate(activations.path / SHARD)
    (activations.path / TOKENS).unlink()
    with pytest.raises(Problem, match="2 files of this store are damaged or missing") as problem:
        store.open(activations.path)
    assert "no such file" in str(problem.value) and "bytes, found" in str(problem.value)


def test_foreign_files_and_links_are_found_and_removed_where_a_store_is_written(
    activations: ActivationStore, tmp_path: Path
) -> None:
    sound = content(activations.path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").write_text("keep")
    (activations.path / "notes.txt").write_text("mine")
    (activations.path / "activations.zarr/tokens/c/9").mkdir()
    (activations.path / "activations.zarr/tokens/c/9/0").write_bytes(b"")
    (activations.path / "documents.parquet.partial").write_bytes(b"PAR1")
    (activations.path / "link").symlink_to(tmp_path / "outside")
    assert [bad.path for bad in store.verify(activations.path).problems] == [
        "activations.zarr/tokens/c/9/0",
        "documents.parquet.partial",
        "link",
        "notes.txt",
    ]
    store.open(activations.path).check()
    write(activations.path)  # complete, so nothing is written and nothing is lost
    assert (activations.path / "notes.txt").read_text() == "mine"
    flip(activations.path / SHARD)
    write(activations.path)
    assert content(activations.path) == sound
    assert (tmp_path / "outside/precious").read_text() == "keep"


def test_a_folder_reached_through_a_link_is_refused(activations: ActivationStore, tmp_path: Path) -> None:
    sound = content(activations.path)
    layer = activations.path / "activations.zarr/layers/11"
    shutil.move(layer, tmp_path / "moved")
    layer.symlink_to(tmp_path / "moved")
    moved = content(tmp_path / "moved")
    with pytest.raises(Problem, match="symbolic link"):
        store.open(activations.path)
    bad = [file.path for file in store.verify(activations.path).problems]
    assert "activations.zarr/layers/11" in bad and SHARD in bad
    assert write(activations.path) == activations.root
    assert content(activations.path) == sound and content(tmp_path / "moved") == moved


def test_damaged_statistics_are_refused(activations: ActivationStore) -> None:
    flip(activations.path / "activations.zarr/layers/3/statistics/mean/c/0")
    with pytest.raises(Problem, match="statistics/mean/c/0"):
        activations.statistics(3)


def test_reading_and_mending_leave_hard_links_alone(tmp_path: Path) -> None:
    """Another name of the same file, as DVC's cache has it, never changes."""
    activations = make(tmp_path / "store")
    shutil.copytree(activations.path, tmp_path / "cache", copy_function=os.link)
    activations.read(3, range(20)).fill_(0)
    activations.window(3, 2).fill_(0)
    flip(activations.path / SHARD)
    cached = content(tmp_path / "cache")
    write(activations.path)
    assert content(tmp_path / "cache") == cached == content(activations.path)
    assert np.array_equal(activations.tokens([0]), store.open(tmp_path / "cache").tokens([0]))
