"""What is pulled is what was pushed, byte for byte, whatever breaks on the way; or a message says why not."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

import store
import store.remote
from store import ActivationStore
from store.manifest import NAME
from store.problem import Problem
from store.records import FileRecord
from store.remote import Unreachable
from tests.store.make import content, make, spec
from tests.store.remotes import BreakingLine, web_server
from tests.store.test_manifest import edit
from tests.store.test_verify import flip, truncate

ROOT = Path(__file__).parents[2]
N_FILES = 37
SHARD = "activations.zarr/layers/11/resid_post/c/1/0/0"
Bucket = Callable[[str], dict[str, bytes]]


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Port of an S3 server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()[1]
    moto.stop()


@pytest.fixture
def line(server: int) -> Iterator[BreakingLine]:
    line = BreakingLine(server)
    yield line
    line.close()


@pytest.fixture
def s3(server: int, line: BreakingLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The bucket `stores`, empty, reached over the line; gives a client that reaches it directly."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store.remote, "PAUSES", (0.01, 0.02))
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server}")
    client.create_bucket(Bucket="stores")
    yield client
    urlopen(Request(f"http://127.0.0.1:{server}/moto-api/reset", method="POST")).close()


def remote_files(client, prefix: str) -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket="stores", Prefix=prefix).get("Contents", [])
    return {
        file["Key"].removeprefix(prefix): client.get_object(Bucket="stores", Key=file["Key"])["Body"].read()
        for file in found
    }


URL = "s3://stores/one"


@pytest.mark.parametrize(("dtype", "compress"), [("bfloat16", False), ("bfloat16", True), ("float32", True)])
def test_a_store_comes_back_from_s3_byte_for_byte(s3, tmp_path: Path, dtype: str, compress: bool) -> None:
    pushed = make(tmp_path / "store", dtype)
    sent = store.push(pushed.path, URL, compress)
    there = remote_files(s3, "one/")
    assert set(there) == set(content(pushed.path)) and not sent.already_there
    assert (there == content(pushed.path)) is not compress
    assert sent.n_remote_bytes == sum(map(len, there.values())) - len(there[NAME]) == sent.n_moved
    got = store.pull(URL, tmp_path / "deep/copy")
    assert content(tmp_path / "deep/copy") == content(pushed.path)
    assert got.root == sent.root == pushed.root and got.n_bytes == sent.n_bytes
    assert store.push(pushed.path, URL, compress).already_there
    assert store.pull(URL, tmp_path / "deep/copy").already_there


@pytest.mark.parametrize("compress", [False, True])
def test_a_store_comes_back_from_a_folder_which_is_a_store_too(
    activations: ActivationStore, tmp_path: Path, compress: bool
) -> None:
    store.push(activations.path, tmp_path / "shared/one", compress)
    there = store.open(tmp_path / "shared/one")
    assert there.root == activations.root and store.verify(there.path).problems == []
    store.pull(str(tmp_path / "shared/one"), tmp_path / "copy")
    assert content(tmp_path / "copy") == content(activations.path)
    store.push(there.path, tmp_path / "shared/two")
    assert content(tmp_path / "shared/two") == content(there.path)


def test_a_web_server_with_ranges_hands_stores_out(
    activations: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.remote, "PIECE", 300)  # a shard is several ranges
    with web_server(tmp_path) as url:
        store.pull(f"{url}/store", tmp_path / "copy")
        assert content(tmp_path / "copy") == content(activations.path)
        with pytest.raises(Problem, match="only hands stores out") as problem:
            store.push(activations.path, f"{url}/other")
        assert problem.value.exit_status == 2
        with pytest.raises(Problem, match="no finished activation store"):
            store.pull(f"{url}/nothing", tmp_path / "nothing")
    with web_server(tmp_path, SimpleHTTPRequestHandler) as url, pytest.raises(Problem, match="in answer to a range"):
        store.pull(f"{url}/store", tmp_path / "other")
    monkeypatch.setattr(store.remote, "PAUSES", (0.01,))
    with pytest.raises(Unreachable, match="cannot be reached"):
        store.pull(f"{url}/store", tmp_path / "other")


def test_connections_that_break_are_made_again(s3, line: BreakingLine, tmp_path: Path, activations) -> None:
    for n_bytes in (9_000, 40_000):
        line.cut_after(n_bytes)
        store.push(activations.path, f"s3://stores/cut{n_bytes}")
        assert remote_files(s3, f"cut{n_bytes}/") == content(activations.path)
        line.cut_after(n_bytes)
        store.pull(f"s3://stores/cut{n_bytes}", tmp_path / str(n_bytes))
        assert content(tmp_path / str(n_bytes)) == content(activations.path)
    assert line.cuts == 4


def test_what_a_lasting_break_left_is_not_sent_again(
    s3, line: BreakingLine, tmp_path: Path, activations: ActivationStore
) -> None:
    line.cut_after(40_000, forever=True)
    with pytest.raises(Unreachable, match=r"of 36 files are done(.|\n)*the same command again"):
        store.push(activations.path, URL, compress=True)
    line.mend()
    left = remote_files(s3, "one/")
    assert left and NAME not in left
    with pytest.raises(Problem, match="no finished activation store"):
        store.open(URL)
    sent = store.push(activations.path, URL, compress=True)
    assert sent.n_moved == sent.n_remote_bytes - sum(map(len, left.values()))
    line.cut_after(40_000, forever=True)
    with pytest.raises(Unreachable, match="files are done"):
        store.pull(URL, tmp_path / "copy")
    line.mend()
    left = content(tmp_path / "copy")
    assert left and NAME not in left
    with pytest.raises(Problem, match="not an activation store"):
        store.open(tmp_path / "copy")
    assert store.pull(URL, tmp_path / "copy").n_moved < sent.n_remote_bytes
    assert content(tmp_path / "copy") == content(activations.path)


PULL = """
import sys, time
from pathlib import Path
import store

replace = Path.replace

def slowly(self, target):
    replace(self, target)
    print(target.name, flush=True)
    time.sleep(0.2)

Path.replace = slowly
store.pull(sys.argv[1], sys.argv[2])
"""


def test_a_killed_pull_goes_on(s3, tmp_path: Path, activations: ActivationStore) -> None:
    sent = store.push(activations.path, URL)
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, URL, tmp_path / "copy"], stdout=subprocess.PIPE, cwd=ROOT, env=os.environ
    )
    assert process.stdout is not None
    for _ in range(12):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(content(tmp_path / "copy")) >= 12 and not (tmp_path / "copy" / NAME).exists()
    (tmp_path / "copy/activations.zarr/half.0a.partial").write_bytes(b"half")
    got = store.pull(URL, tmp_path / "copy")
    assert 0 < got.n_moved < sent.n_remote_bytes
    assert content(tmp_path / "copy") == content(activations.path)


def test_a_store_that_is_damaged_here_is_not_pushed(s3, activations: ActivationStore) -> None:
    flip(activations.path / SHARD)
    flip(activations.path / "documents.parquet")
    with pytest.raises(Problem, match="2 files of this store are damaged") as problem:
        store.push(activations.path, URL)
    assert SHARD in str(problem.value) and "documents.parquet" in str(problem.value)
    assert NAME not in remote_files(s3, "one/")


@pytest.mark.parametrize("compress", [False, True])
def test_a_remote_shard_that_was_changed_is_found(activations: ActivationStore, tmp_path: Path, compress: bool) -> None:
    shared = tmp_path / "shared"
    store.push(activations.path, shared, compress)
    flip(shared / SHARD)
    flip(shared / "documents.parquet")
    with pytest.raises(Problem, match="2 files of the remote store are damaged") as problem:
        store.pull(shared, tmp_path / "copy")
    assert SHARD in str(problem.value) and "documents.parquet" in str(problem.value)
    left = content(tmp_path / "copy")
    assert len(left) == N_FILES - 3 and not {SHARD, NAME, "documents.parquet"} & set(left)
    truncate(shared / SHARD)
    with pytest.raises(Problem, match=r"is not what its manifest says(.|\n)*found: \d+ bytes"):
        store.pull(shared, tmp_path / "copy")


@pytest.mark.parametrize("name", [SHARD, "activations.zarr/layers/11/resid_post/zarr.json"])
def test_a_forged_compressed_file_is_found_although_its_own_digest_is_right(
    activations: ActivationStore, tmp_path: Path, name: str
) -> None:
    shared = tmp_path / "shared"
    store.push(activations.path, shared, compress=True)
    forged = (shared / name.replace("c/1", "c/0").replace("11/resid_post/zarr", "3/resid_post/zarr")).read_bytes()
    (shared / name).unlink()
    (shared / name).write_bytes(forged)
    record = FileRecord.of(forged)._asdict()
    edit(shared, lambda document: document["encoding"]["files"].update({name: record}))
    assert store.open(shared).root == activations.root
    with pytest.raises(Problem, match=r"rows of sha256|cannot be read"):
        store.pull(shared, tmp_path / "copy")
    assert name not in content(tmp_path / "copy")


def test_another_store_is_never_replaced(tmp_path: Path, activations: ActivationStore) -> None:
    other = make(tmp_path / "other", "float32")
    shared = tmp_path / "shared"
    store.push(activations.path, shared)
    before = content(shared)
    for path, compress in [(other.path, False), (activations.path, True)]:
        with pytest.raises(Problem, match="Another store is at this address"):
            store.push(path, shared, compress)
    assert content(shared) == before
    kept = content(other.path)
    with pytest.raises(Problem, match="Another store is in this folder"):
        store.pull(shared, other.path)
    with store.StoreWriter.open(tmp_path / "begun", spec()):
        pass
    with pytest.raises(Problem, match="a store that is not finished"):
        store.pull(shared, tmp_path / "begun")
    assert content(other.path) == kept


def test_no_store_is_copied_into_itself(tmp_path: Path, activations: ActivationStore) -> None:
    before = content(activations.path)
    for there in (activations.path / "copy", activations.path.parent):
        for copy in (
            lambda there=there: store.push(activations.path, there),
            lambda there=there: store.pull(there, activations.path),
        ):
            with pytest.raises(Problem, match="lies in the other") as caught:
                copy()
            assert caught.value.exit_status == 2
    assert content(activations.path) == before


def test_other_files_are_never_touched(tmp_path: Path, activations: ActivationStore) -> None:
    taken, shared = tmp_path / "taken", tmp_path / "shared"
    taken.mkdir()
    (taken / "notes.txt").write_bytes(b"mine")
    with pytest.raises(Problem, match=r"other files at this address(.|\n)*notes\.txt"):
        store.push(activations.path, taken)
    assert content(taken) == {"notes.txt": b"mine"}
    store.push(activations.path, shared)
    for name in ("README.md", "notes.txt", "activations.zarr"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(b"mine")
        with pytest.raises(Problem, match="Something else is where the store is to go") as problem:
            store.pull(shared, folder)
        assert name in str(problem.value) and content(folder) == {name: b"mine"}
    (tmp_path / "outside").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/activations.zarr").symlink_to(tmp_path / "outside")
    with pytest.raises(Problem, match=r"Something else(.|\n)*activations\.zarr"):
        store.pull(shared, tmp_path / "linked")
    assert not list((tmp_path / "outside").iterdir())
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(Problem, match="Something else"):
        store.pull(shared, tmp_path / "file")


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_names_that_lead_out_of_the_folder_are_refused(s3, tmp_path: Path, activations, name: str) -> None:
    store.push(activations.path, tmp_path / "shared")
    record = {"size": 4, "sha256": "0" * 64}
    edit(tmp_path / "shared", lambda document: document["files"].update({name: record}))
    with pytest.raises(Problem, match="outside its store"):
        store.pull(tmp_path / "shared", tmp_path / "deep/er/copy")
    assert not (tmp_path / "deep").exists()


def test_a_pull_that_the_disk_cannot_hold_writes_nothing(
    activations: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(Problem, match=r"Too little disk(.|\n)*1,000 bytes free"):
        store.pull(activations.path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_manifest_of_a_size_that_cannot_be_is_not_read(
    activations: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.fetch.MANIFEST_BYTES", 1000)
    with pytest.raises(Problem, match="1000 bytes at most"):
        store.pull(activations.path, tmp_path / "copy")


def test_what_is_missing_at_the_other_side_is_sent_again(s3, activations: ActivationStore) -> None:
    store.push(activations.path, URL)
    s3.delete_object(Bucket="stores", Key=f"one/{SHARD}")
    assert store.push(activations.path, URL).n_moved == (activations.path / SHARD).stat().st_size
    assert remote_files(s3, "one/") == content(activations.path)


@pytest.mark.parametrize("url", ["gs://bucket/one", "nonsense://bucket/one", "s3://stores-that-are-not/one"])
def test_addresses_that_cannot_be_used_say_so(s3, activations: ActivationStore, url: str) -> None:
    with pytest.raises(Problem) as problem:
        store.push(activations.path, url)
    assert url.split("/one")[0] in str(problem.value)
    if url.startswith("gs"):
        assert "pip install gcsfs" in str(problem.value)


def test_the_manifest_goes_last_in_both_directions(
    activations: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original = Path.replace

    def noted(self: Path, target: Path) -> Path:
        written.append(target.name)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    store.push(activations.path, tmp_path / "shared", compress=True)
    store.pull(tmp_path / "shared", tmp_path / "copy")
    assert len(written) == 2 * N_FILES
    assert [i for i, name in enumerate(written) if name == NAME] == [N_FILES - 1, 2 * N_FILES - 1]
