"""Bad files come back to the recorded bytes, from what is sound or another copy, or stay as they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest

import store
from store import ActivationStore
from store.lock import Lock
from store.manifest import Manifest
from store.problem import Problem
from store.progress import Progress
from store.repair import Parts, from_copy, reading
from tests.store.damage import SHARD, TOKENS, edit, flip, link, rewrite
from tests.store.make import content, make

STATISTICS = "activations.zarr/layers/11/statistics"
FROM_MANIFEST = [
    "activations.zarr/zarr.json",
    "activations.zarr/layers/3/zarr.json",
    "activations.zarr/tokens/zarr.json",
]
FROM_SOUND_FILES = [
    f"{STATISTICS}/{name}" for name in ("zarr.json", "mean/c/0", "mean/zarr.json", "norm_by_position/c/0")
]
ONLY_FROM_A_COPY = [SHARD, TOKENS, "documents.parquet", "README.md"]


@pytest.fixture
def copy(activations: ActivationStore, tmp_path: Path) -> Path:
    return shutil.copytree(activations.path, tmp_path / "copy")


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: rewrite(path, lambda data: data[:-1])])
@pytest.mark.parametrize("name", FROM_MANIFEST + FROM_SOUND_FILES)
def test_what_follows_from_the_rest_is_made_again(
    activations: ActivationStore, name: str, harm: Callable[[Path], None]
) -> None:
    sound = content(activations.path)
    harm(activations.path / name)
    result = store.repair(activations.path)
    assert result.mended == {name: "the manifest" if name in FROM_MANIFEST else "sound files"}
    assert not result.left and result.root == activations.root
    assert content(activations.path) == sound


@pytest.mark.parametrize("name", ONLY_FROM_A_COPY)
def test_what_only_a_copy_has_is_left_or_fetched(activations: ActivationStore, copy: Path, name: str) -> None:
    sound = content(activations.path)
    flip(activations.path / name)
    damaged = content(activations.path)
    result = store.repair(activations.path)
    assert list(result.left) == [name] and not result.mended
    assert content(activations.path) == damaged
    result = store.repair(activations.path, {"copy": from_copy(reading(copy))})
    assert result.mended == {name: "copy"} and content(activations.path) == sound


def test_statistics_follow_once_their_shard_is_mended(activations: ActivationStore, copy: Path) -> None:
    sound = content(activations.path)
    flip(activations.path / SHARD)
    shutil.rmtree(activations.path / STATISTICS)
    shutil.rmtree(copy / STATISTICS)
    result = store.repair(activations.path, {"copy": from_copy(reading(copy))})
    assert result.mended[SHARD] == "copy" and set(result.mended.values()) == {"copy", "sound files"}
    assert content(activations.path) == sound


def test_another_content_is_refused_and_everything_left_as_it_was(activations: ActivationStore, tmp_path: Path) -> None:
    other = make(tmp_path / "other", seed=1)
    flip(activations.path / SHARD)
    damaged = content(activations.path)
    result = store.repair(activations.path, {"other": from_copy(reading(other.path))})
    assert list(result.left) == [SHARD] and "other gives other content" in result.reasons[0]
    assert content(activations.path) == damaged


def test_a_way_that_fails_is_told_and_the_next_one_tried(activations: ActivationStore, copy: Path) -> None:
    def fails(_: Path, __: Manifest, ___: Collection[str], ____: Progress) -> Iterator[tuple[str, Parts]]:
        raise Problem("No model here.")
        yield

    flip(activations.path / SHARD)
    result = store.repair(activations.path, {"model": fails, "copy": from_copy(reading(copy))})
    assert result.mended == {SHARD: "copy"} and result.reasons == ["model: No model here."]


def test_foreign_files_are_reported_and_kept(activations: ActivationStore) -> None:
    (activations.path / "notes.txt").write_text("mine")
    (activations.path / "README.md.partial").write_text("stale")
    result = store.repair(activations.path)
    assert list(result.left) == ["notes.txt"] and (activations.path / "notes.txt").exists()
    assert not (activations.path / "README.md.partial").exists()


@pytest.mark.parametrize("name", [SHARD, "activations.zarr/layers/11"])
def test_nothing_is_written_through_a_link(activations: ActivationStore, copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    sound = content(activations.path)
    link(activations.path / name)
    for path in (tmp_path / "outside").rglob("*"):
        if path.is_file():
            flip(path)
    outside = content(tmp_path / "outside")
    result = store.repair(activations.path, {"copy": from_copy(reading(copy))})
    assert content(tmp_path / "outside") == outside
    if name == SHARD:  # the link itself is replaced
        assert content(activations.path) == sound and not (activations.path / SHARD).is_symlink()
    else:
        assert name in result.left and any("symbolic link" in reason for reason in result.reasons)


def test_a_planted_partial_link_does_not_lead_out(activations: ActivationStore, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/precious").write_text("keep")
    flip(activations.path / SHARD)
    (activations.path / f"{SHARD}.partial").symlink_to(tmp_path / "precious")
    (activations.path / "more.partial").symlink_to(tmp_path / "folder")
    assert not store.repair(activations.path, {"copy": from_copy(reading(copy))}).left
    assert (tmp_path / "precious").read_text() == (tmp_path / "folder/precious").read_text() == "keep"


def test_folders_in_the_way(activations: ActivationStore, copy: Path) -> None:
    for name in (SHARD, TOKENS):
        (activations.path / name).unlink()
        (activations.path / name).mkdir()
    (activations.path / TOKENS / "mine").write_text("keep")
    result = store.repair(activations.path, {"copy": from_copy(reading(copy))})
    assert list(result.mended) == [SHARD] and (activations.path / TOKENS / "mine").exists()
    assert any("a folder with files" in reason for reason in result.reasons)


def test_a_copy_is_never_read_through_links_or_where_it_has_another_size(copy: Path) -> None:
    manifest = Manifest.load(copy)
    read = reading(copy)
    assert read(SHARD, manifest.files[SHARD]) == (copy / SHARD).read_bytes()
    rewrite(copy / SHARD, lambda data: data + b"\0")
    assert read(SHARD, manifest.files[SHARD]) is None
    (copy / TOKENS).unlink()
    (copy / TOKENS).symlink_to("/dev/zero")
    assert read(TOKENS, manifest.files[TOKENS]) is None


def test_what_cannot_be_repaired_is_refused(activations: ActivationStore, tmp_path: Path) -> None:
    lock = Lock(activations.path)
    with pytest.raises(Problem, match="Another process"):
        store.repair(activations.path)
    lock.release()
    with pytest.raises(Problem, match="not an activation store"):
        store.repair(tmp_path / "nothing")
    assert not (tmp_path / "nothing.lock").exists()
    edit(activations.path, lambda document: document.update(root=None, status="partial"), sealed=False)
    with pytest.raises(Problem, match="damaged"):
        store.repair(activations.path)


def test_a_partial_store_is_left_to_its_harvest(activations: ActivationStore) -> None:
    from dataclasses import replace

    replace(Manifest.load(activations.path), root=None).save(activations.path)
    with pytest.raises(Problem, match="partial"):
        store.repair(activations.path)


def test_a_repair_leaves_hard_links_alone(activations: ActivationStore, copy: Path, tmp_path: Path) -> None:
    """The damaged file may be a hard link to DVC's cache: it is replaced, not written."""
    flip(activations.path / SHARD)
    shutil.copytree(activations.path, tmp_path / "cache", copy_function=shutil.os.link)
    damaged = content(tmp_path / "cache")
    store.repair(activations.path, {"copy": from_copy(reading(copy))})
    assert content(tmp_path / "cache") == damaged
    assert np.array_equal(activations.tokens([0]), store.open(copy).tokens([0]))
