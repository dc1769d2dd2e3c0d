"""A remote store reads as a local one; what is read is fetched once, verified, and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import store
from store import ActivationStore, Selection
from store.cache import cache_folder
from store.mirror import MirroredStore
from store.problem import Problem
from tests.store.make import LAYERS, content, make
from tests.store.remotes import RangeHandler, web_server
from tests.store.test_verify import flip

ROOT = Path(__file__).parents[2]
ASKED: list[str] = []
"""Files that were read from the server, in order."""


class Noting(RangeHandler):
    def do_GET(self) -> None:
        ASKED.append(self.path.removeprefix("/store/"))
        super().do_GET()


@pytest.fixture
def url(activations: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store.remote, "PAUSES", ())
    ASKED.clear()
    with web_server(tmp_path, Noting) as address:
        yield f"{address}/store"


def shards() -> list[str]:
    return [name for name in ASKED if "resid_post/c" in name]


def test_a_remote_store_reads_as_a_local_one(activations: ActivationStore, url: str) -> None:
    opened = store.open(url)
    assert isinstance(opened, MirroredStore) and opened.root == activations.root
    assert opened.manifest == activations.manifest
    for layer in LAYERS:
        for step in range(3):
            expected = activations.windows(layer, "train", 4, seed=1).batch(step)
            found = opened.windows(layer, "train", 4, seed=1).batch(step)
            assert found.x.equal(expected.x) and found.document.equal(expected.document)
        assert np.array_equal(opened.statistics(layer).mean, activations.statistics(layer).mean)
    assert opened.documents.equals(activations.documents)


def test_shards_are_fetched_when_they_are_first_read_and_never_again(url: str) -> None:
    opened = store.open(url)
    assert "documents.parquet" in ASKED and shards() == []
    first = opened.window(11, 20).clone()
    assert shards() == ["activations.zarr/layers/11/resid_post/c/1/0/0"]
    opened.window(11, 30)
    opened.read(11, [16, 31])
    assert len(shards()) == 1
    ASKED.clear()
    again = store.open(url)
    assert again.window(11, 20).equal(first) and ASKED == ["manifest.json"]


def test_checking_fetches_the_rest_and_mends_what_was_damaged(activations: ActivationStore, url: str) -> None:
    opened = store.open(url)
    opened.window(3, 0)
    flip(opened.path / "activations.zarr/layers/3/resid_post/c/0/0/0")
    opened.check()
    assert len(shards()) == 2 * 3 + 1
    expected = content(activations.path)
    del expected["manifest.json"]
    assert content(opened.path) == expected
    ASKED.clear()
    opened.check()
    assert ASKED == []


def test_a_subset_of_a_remote_store_fetches_what_it_keeps(
    activations: ActivationStore, url: str, tmp_path: Path
) -> None:
    root = store.subset(store.open(url), tmp_path / "remote", Selection(layers=(3,)))
    assert store.subset(activations, tmp_path / "local", Selection(layers=(3,))) == root
    assert content(tmp_path / "remote") == content(tmp_path / "local")
    assert len(shards()) == 3 and all("/layers/3/" in name for name in shards())


def test_a_compressed_remote_store_is_mirrored_raw(
    activations: ActivationStore, url: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    store.push(activations.path, tmp_path / "small", compress=True)
    opened = store.open(url.replace("/store", "/small"))
    assert opened.read(11, range(43)).equal(activations.read(11, range(43)))
    shard = "activations.zarr/layers/11/resid_post/c/2/0/0"
    assert (opened.path / shard).read_bytes() == (activations.path / shard).read_bytes()
    assert not [notice for notice in recwarn if "raw" in str(notice.message)]


def test_a_remote_shard_that_is_not_what_it_should_be_is_refused(activations: ActivationStore, url: str) -> None:
    opened = store.open(url)
    flip(activations.path / "activations.zarr/layers/11/resid_post/c/1/0/0")
    opened.window(11, 0)
    with pytest.raises(Problem, match=r"damaged(.|\n)*resid_post/c/1/0/0"):
        opened.window(11, 20)
    with pytest.raises(Problem, match=r"1 files of the remote store"):
        opened.check()


def test_a_remote_store_that_is_not_finished_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(Problem, match="no finished activation store"):
        store.open(url + "-not")
    assert not (tmp_path / "cache").exists()


READ = """
import sys
import store

opened = store.open(sys.argv[1])
for step in range(6):
    opened.windows(11, "train", 5, seed=int(sys.argv[2])).batch(step)
opened.check()
print(opened.root)
"""


def test_processes_may_mirror_the_same_store_at_once(activations: ActivationStore, url: str) -> None:
    folder = cache_folder("stores") / activations.root
    folder.mkdir(parents=True)
    (folder / "documents.parquet.0a.partial").write_bytes(b"a kill left it")
    command = [sys.executable, "-c", READ, url]
    processes = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ)
        for seed in range(2)
    ]
    assert [process.communicate()[0].strip() for process in processes] == [activations.root] * 2
    expected = content(activations.path)
    del expected["manifest.json"]
    assert content(folder) == expected


def test_a_store_of_one_shard_is_mirrored_too(tmp_path: Path, url: str) -> None:
    small = make(tmp_path / "small", n_rows=5)
    assert store.open(url.replace("/store", "/small")).read(3, range(5)).equal(small.read(3, range(5)))
