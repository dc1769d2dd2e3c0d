"""A store is whole or partial, never wrong; one writer at a time; memory stays flat."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from store import ActivationStore, OtherContent, StoreSpec, StoreWriter, remove_store
from store.files import readable_json
from store.layout import Layout
from store.limits import FILE_BYTES, MANIFEST_BYTES, most_shards
from store.limits import LAYERS as HIGHEST
from store.manifest import Manifest
from store.problem import Problem
from store.records import FileRecord, records_json
from tests import forks
from tests.store.make import (
    CARD_FACTS,
    CONTEXT,
    LAYERS,
    N_ROWS,
    content,
    make,
    spec,
    text,
    write,
    write_sequences,
    write_shard,
)

ROOT = Path(__file__).parents[2]


def open_writer(folder: Path, **request: object) -> StoreWriter:
    return StoreWriter.open(folder, spec(**request), {"threads": 1})  # type: ignore[arg-type]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a") == write(tmp_path / "another name")
    assert content(tmp_path / "a") == content(tmp_path / "another name")


def test_a_finished_store_is_left_alone(activations: ActivationStore) -> None:
    before = {path: path.stat().st_mtime_ns for path in activations.path.rglob("*")}
    with open_writer(activations.path) as writer:
        assert writer.complete and writer.missing_shards() == [] and writer.n_sequences == N_ROWS
        assert writer.finish(CARD_FACTS) == writer.root == activations.root
        with pytest.raises(RuntimeError, match="finished"):
            write_shard(writer, 0)
    assert {path: path.stat().st_mtime_ns for path in activations.path.rglob("*")} == before


def test_what_else_lies_in_a_finished_store_stays_there(activations: ActivationStore) -> None:
    (activations.path / "notes.md").write_text("mine")
    with open_writer(activations.path) as writer:
        assert writer.complete
    assert (activations.path / "notes.md").read_text() == "mine"


def test_resuming_writes_the_shards_that_do_not_verify_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with open_writer(folder) as writer:
        assert writer.n_sequences is None
        write_sequences(writer)
        assert writer.missing_shards() == [0, 1, 2]
        for shard in (0, 2):
            write_shard(writer, shard)
    with StoreWriter.open(folder, spec(), {"threads": 99}) as writer:
        assert writer.missing_shards() == [1] and writer.plan == {"threads": 1}
        write_shard(writer, 1)
        assert writer.missing_shards() == []
    path = folder / "activations.zarr/layers/3/resid_post/c/0/0/0"
    path.write_bytes(bytes(len(path.read_bytes())))
    with open_writer(folder) as writer:
        assert writer.missing_shards() == [0]


def test_a_manifest_that_takes_long_to_save_is_saved_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not name yet is written again after a kill, and by no other end."""
    folder = tmp_path / "store"
    with open_writer(folder) as writer:
        write_sequences(writer)
        monkeypatch.setattr(writer, "_save_seconds", 1e6)
        write_shard(writer, 0)
        write_shard(writer, 1)
        named = Manifest.load(folder).files
        assert writer.missing_shards() == [2] and not any("resid_post/c/" in name for name in named)
    with open_writer(folder) as writer:
        assert writer.missing_shards() == [2]


def test_rows_that_are_written_can_be_read_back(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        write_sequences(writer)
        write_shard(writer, 1)
        packed = list(text())
        assert np.array_equal(writer.tokens(1), np.concatenate([tokens for _, tokens, _ in packed[16:32]]))
        assert np.array_equal(writer.document(2), np.concatenate([ids for _, _, ids in packed[32:]]))
        assert list(writer.shard_rows(2)) == list(range(32, N_ROWS)) and writer.n_shards == 3
        opened = make(tmp_path / "whole")
        assert np.array_equal(writer.stored(11, 20), opened.window(11, 20).view(torch.uint16).numpy())


def test_a_plan_is_written_down_once(tmp_path: Path) -> None:
    with StoreWriter.open(tmp_path / "store", spec()) as writer:
        assert writer.plan == {}
        writer.record_plan({"batch": (8, 16)})
        with pytest.raises(RuntimeError):
            writer.record_plan({})
    with open_writer(tmp_path / "store") as writer:
        assert writer.plan == {"batch": [8, 16]}


def test_a_partial_store_is_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        write_sequences(writer)
        with pytest.raises(RuntimeError, match="not written yet"):
            writer.finish(CARD_FACTS)
    with pytest.raises(Problem, match="partial"):
        store.open(tmp_path / "store")
    assert "status partial" in store.verify(tmp_path / "store").problems[0].found


def test_another_request_is_refused_until_the_store_is_removed(activations: ActivationStore) -> None:
    before = content(activations.path)
    with pytest.raises(OtherContent, match="other parameters") as problem:
        open_writer(activations.path, seed=1)
    assert activations.manifest.fingerprint in str(problem.value)
    assert content(activations.path) == before
    remove_store(activations.path)
    assert not activations.path.exists()
    with open_writer(activations.path, seed=1) as writer:
        assert not writer.complete


def test_other_shards_are_other_content(activations: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.manifest.SHARD_BYTES", 0)
    with pytest.raises(OtherContent, match=r"shards of 8 sequences[\s\S]*shards of 16 sequences"):
        open_writer(activations.path)


def test_text_that_comes_out_otherwise_drops_the_activations(activations: ActivationStore) -> None:
    (activations.path / "activations.zarr/tokens/c/0/0").unlink()
    with open_writer(activations.path) as writer:
        assert not writer.complete and writer.n_sequences is None
        write_sequences(writer, n_rows=20)
        assert writer.missing_shards() == [0, 1] and writer.n_sequences == 20
    names = content(activations.path)
    assert not any("resid_post/c" in name or "tokens/c/2" in name for name in names)


def test_the_same_text_keeps_the_activations(activations: ActivationStore) -> None:
    sound = content(activations.path)
    (activations.path / "documents.parquet").unlink()
    with open_writer(activations.path) as writer:
        write_sequences(writer)
        assert writer.missing_shards() == []
        writer.finish(CARD_FACTS)
    assert content(activations.path) == sound


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store"):
        for attempt in (open_writer, remove_store):
            with pytest.raises(Problem, match="Another process is writing"):
                attempt(tmp_path / "store")
    with open_writer(tmp_path / "store"):
        pass


def test_a_link_and_what_it_leads_to_are_one_store(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk/store")
    with open_writer(tmp_path / "disk" / "store"), pytest.raises(Problem, match="Another process is writing"):
        open_writer(tmp_path / "store")
    remove_store(tmp_path / "store")
    assert not (tmp_path / "disk" / "store").exists()


def test_folders_without_a_name_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with open_writer(Path()):
        assert (tmp_path / "here.lock").exists()
    with pytest.raises(Problem, match="cannot be the root folder"):
        open_writer(Path("/"))


def test_a_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from store import StoreWriter
from tests.store.make import small_shards, spec
small_shards()
with StoreWriter.open(Path(sys.argv[1]), spec()):
    print("open", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(Problem, match="Another process is writing"):
            open_writer(tmp_path / "store")
        other.kill()
    with StoreWriter.open(tmp_path / "store", spec()) as writer:
        assert not writer.complete


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "thesis", tmp_path / "file"):
        for attempt in (open_writer, remove_store):
            with pytest.raises(Problem, match="in the way"):
                attempt(folder)
    assert content(tmp_path / "thesis") == {"chapter.tex": b"precious"}


def test_a_full_disk_is_answered_and_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_writer(tmp_path / "store") as writer:
        write_sequences(writer)
        before = content(tmp_path / "store")
        with monkeypatch.context() as patch, pytest.raises(Problem, match="No space left"):
            patch.setattr(os, "fsync", full)
            write_shard(writer, 0)
        assert content(tmp_path / "store") == before
    assert write(tmp_path / "store") == write(tmp_path / "other")


def test_a_place_that_cannot_hold_a_store_is_answered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot be written here"):
        open_writer(tmp_path / "file" / "store")


def test_nothing_that_varies_is_in_a_store(activations: ActivationStore) -> None:
    everything = b"".join(content(activations.path).values())
    assert str(activations.path.parent).encode() not in everything


def test_the_card_says_what_and_how(activations: ActivationStore) -> None:
    card = (activations.path / "README.md").read_text()
    assert "| Text | random \\| numbers |" in card and "blocks.11.hook_resid_post" in card and "43" in card


@pytest.mark.parametrize(
    ("tokens", "document", "message"),
    [
        (np.zeros((1, CONTEXT - 1)), np.zeros((1, CONTEXT - 1)), "expected"),
        (np.zeros((2, CONTEXT)), np.zeros((1, CONTEXT)), "expected"),
        (np.zeros((1, CONTEXT)), np.full((1, CONTEXT), 2), "not added"),
        (np.zeros((1, CONTEXT)), np.full((1, CONTEXT), -2), "not added"),
        (np.zeros((1, CONTEXT)), np.arange(CONTEXT)[None] % 2, "mixes"),
    ],
)
def test_rows_that_make_no_sense_are_refused(
    tmp_path: Path, tokens: np.ndarray, document: np.ndarray, message: str
) -> None:
    with open_writer(tmp_path / "store") as writer:
        with pytest.raises(ValueError, match=message), writer.sequences() as out:
            out.add_document("a", "test", None, "train", 8)
            out.add_document("b", "test", None, "heldout", 8)
            out.add_rows(tokens, document)
        assert writer.n_sequences is None
        with pytest.raises(ValueError, match="split"), writer.sequences() as out:
            out.add_document("a", "test", None, "test", 8)
        with pytest.raises(Problem, match="no text"), writer.sequences():
            pass
        with pytest.raises(RuntimeError, match="sequences"):
            writer.missing_shards()
        write_sequences(writer)
        with pytest.raises(RuntimeError, match="already"):
            writer.sequences()


def test_a_text_whose_shards_no_manifest_could_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, refused in ((3, False), (2, True)):
        monkeypatch.setattr("store.limits.MANIFEST_BYTES", room * FILE_BYTES * (2 + 2 * len(LAYERS)) * 100 // 99 + 99)
        with StoreWriter.open(tmp_path / str(room), spec()) as writer:
            if refused:
                with pytest.raises(Problem, match=f"(?s)larger than one store.*{2 * 16 * CONTEXT} tokens at the most"):
                    write_sequences(writer)
                assert writer.n_sequences is None
            else:
                write_sequences(writer)


def test_a_manifest_has_room_for_what_a_writer_lets_in() -> None:
    """With the longest names that there can be: of layer 1,023, and of both forms of its shards."""
    layout = Layout(8 * most_shards(1), 128, 8, "bfloat16", {HIGHEST - 1: 4096})
    last = range(layout.n_shards - 50, layout.n_shards)
    files, encoded = (
        {array.shard_path(shard): FileRecord(2**26, "0" * 64) for array in arrays for shard in last}
        for arrays in ([layout.tokens, layout.document, *layout.activations.values()], layout.activations.values())
    )
    size = len(readable_json({"files": records_json(files), "encoding": records_json(encoded)}))
    assert layout.n_shards * size / len(last) < MANIFEST_BYTES - 2**16


def test_shards_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store") as writer:
        write_sequences(writer)
        good = {layer: np.zeros((16, CONTEXT, d), np.uint16) for layer, d in LAYERS.items()}
        for bad in ({3: good[3]}, good | {5: good[3]}, good | {3: good[3][:8]}, good | {3: good[3].astype("f4")}):
            with pytest.raises(ValueError):
                writer.write_shard(0, bad)
        with pytest.raises(IndexError):
            writer.write_shard(3, good)
        assert writer.missing_shards() == [0, 1, 2]


def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, d, rows_per_shard = 64, 256, 16
    row_bytes = context * (2 * d + 8)
    monkeypatch.setattr("store.manifest.SHARD_BYTES", rows_per_shard * context * d * 2)
    monkeypatch.setattr("store.documents.ROW_GROUP", 32)

    def peak(n_shards: int) -> int:
        tracemalloc.start()
        wide = StoreSpec({"rows": n_shards}, context, "bfloat16", {0: d})
        with StoreWriter.open(tmp_path / str(n_shards), wide) as writer:
            with writer.sequences() as out:
                for row in range(n_shards * rows_per_shard):
                    document = out.add_document(str(row), "test", None, "train", context)
                    out.add_rows(np.zeros((1, context), np.int32), np.full((1, context), document))
            for shard in writer.missing_shards():
                writer.write_shard(shard, {0: np.ones((rows_per_shard, context, d), np.uint16)})
            writer.finish({})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2)  # imports, caches
    few, many = peak(5), peak(40)
    more = 35 * rows_per_shard * row_bytes
    assert many - few < more / 20, f"{few} bytes for 5 shards, {many} for 40, which hold {more} bytes more"


@pytest.mark.parametrize(("seed", "n_steps", "n_times"), [(0, 6, 2)])
def test_a_killed_writer_ends_with_the_same_bytes(tmp_path: Path, seed: int, n_steps: int, n_times: int) -> None:
    assert_survives(tmp_path, seed, n_steps, n_times)


@pytest.mark.slow
def test_a_writer_killed_two_hundred_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert_survives(tmp_path, 1, 80, 40)


def assert_survives(folder: Path, seed: int, n_steps: int, n_times: int) -> None:
    command = [sys.executable, "-m", "tests.store.crash", *map(str, (folder, seed, n_steps, n_times))]
    result = subprocess.run(command, cwd=ROOT, env=forks.ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    runs = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(runs) == n_steps + n_times
    assert all(run["equal"] for run in runs)
    assert sum(run["killed"] for run in runs) > len(runs)
