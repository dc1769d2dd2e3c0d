"""`pipeline store`: what people see of verify, repair, inspect, stats, subset and ls."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import store
from pipeline import console
from pipeline.expected import folder_md5
from pipeline.params import read_params
from stages.harvest.harvest import harvest
from tests.project import TinyProject, make_project
from tests.store.damage import edit, flip
from tests.store.make import content

STORE = "data/stores/tiny-L1"
SHARD = "activations.zarr/layers/1/resid_post/c/0/0/0"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The store of the project, made once: every project has the same text."""
    root = tmp_path_factory.mktemp("stored")
    make_project(root, tiny_model)
    profile = read_params(root).profile
    harvest(root / "store", profile.harvest, profile.model, profile.corpus)
    return root / "store"


@pytest.fixture
def harvested(project: TinyProject, stored: Path) -> TinyProject:
    shutil.copytree(stored, folder(project))
    return project


def folder(project: TinyProject) -> Path:
    return project.root / STORE


def test_the_root_is_checked_against_a_digest(harvested: TinyProject) -> None:
    root = store.open(folder(harvested)).root
    for digest in (root, root[:8], root[:20].upper()):
        status, out, _ = harvested("store", "verify", "--expect", digest)
        assert status == 0 and "--expect" in out
    status, _, err = harvested("store", "verify", "--expect", "0" * 8)
    assert status == 1 and "root digest 00000000" in err and root in err
    assert "consistent forgery would pass" in harvested("store", "verify")[1]
    for wrong in (root[:7], "no-such-run"):
        assert harvested("store", "verify", "--expect", wrong)[0] == 2


def test_the_root_is_checked_against_a_training(harvested: TinyProject) -> None:
    assert harvested("train", "--variant", "topk")[0] == 0
    for run in ("runs/tiny/topk/seed0", "runs/tiny/topk/seed0/sae"):
        status, out, err = harvested("store", "verify", "--expect", run)
        assert status == 0 and "topk/seed0" in out, err
    edit(folder(harvested), lambda document: document["request"].update(forged=1), sealed=True)
    assert harvested("store", "verify")[0] == 0
    status, _, err = harvested("store", "verify", "--expect", "runs/tiny/topk/seed0")
    assert status == 1 and "root digest" in err


@pytest.mark.parametrize("tracked", [STORE, f"{STORE}/manifest.json"])
def test_the_root_is_checked_against_the_lock_file(harvested: TinyProject, tracked: str) -> None:
    place = harvested.root / tracked
    md5 = folder_md5(place) if place.is_dir() else hashlib.md5(place.read_bytes()).hexdigest()
    lock = {"stages": {"harvest@tiny": {"cmd": "x", "outs": [{"path": tracked, "hash": "md5", "md5": md5}]}}}
    (harvested.root / "dvc.lock").write_text(yaml.safe_dump(lock))
    status, out, err = harvested("store", "verify")
    assert status == 0 and "dvc.lock" in out, err
    sampled = harvested("store", "verify", "--sample", "50%")[1]
    assert "needs every byte" in sampled if tracked == STORE else "checked against  dvc.lock" in sampled
    edit(folder(harvested), lambda document: document["request"].update(forged=1), sealed=True)
    status, _, err = harvested("store", "verify")
    assert status == 1 and md5 in err


def test_the_hash_of_a_folder_is_that_of_dvc(tmp_path: Path) -> None:
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    place = tmp_path / "store"
    for name in ("b", "a/é", "a-1", "a/b/c"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    system = LocalFileSystem()
    database = HashFileDB(system, str(tmp_path / "cache"))
    _, _, tree = build(database, str(place), system, "md5", dry_run=True)
    assert tree.hash_info is not None and folder_md5(place) == tree.hash_info.value


def test_a_sample_says_how_much_it_read(harvested: TinyProject) -> None:
    report = json.loads(harvested("store", "verify", "--sample", "5%", "--json")[1])
    assert report["ok"] and 0 < report["bytes read"] < report["bytes"]
    (folder(harvested) / SHARD).unlink()
    assert harvested("store", "verify", "--sample", "0.01")[0] == 1
    for wrong in ("0", "5 percent", "101%", "-1%", "nan"):
        assert harvested("store", "verify", "--sample", wrong)[0] == 2


def test_a_repair_through_the_model_or_a_copy(harvested: TinyProject, tmp_path: Path) -> None:
    copy = shutil.copytree(folder(harvested), tmp_path / "copy")
    sound = (folder(harvested) / SHARD).read_bytes()
    flip(folder(harvested) / SHARD)
    status, out, err = harvested("store", "verify", "--repair")
    assert status == 0 and f"mended from profile tiny: {SHARD}" in out, err
    assert (folder(harvested) / SHARD).read_bytes() == sound
    harvested.params["profiles"]["tiny"]["harvest"]["heldout"] = 0.3
    harvested.save()
    flip(folder(harvested) / SHARD)
    status, _, err = harvested("store", "verify", "--repair")
    assert status == 1 and "not those that this store was harvested with" in err and "Traceback" not in err
    status, out, err = harvested("store", "verify", "--repair", "--from", str(copy), "--json")
    assert status == 0 and json.loads(out)["mended"] == {SHARD: str(copy)}, err
    assert (folder(harvested) / SHARD).read_bytes() == sound


@pytest.mark.parametrize("url", [False, True])
def test_a_repair_from_a_copy_that_is_damaged_itself(harvested: TinyProject, tmp_path: Path, url: bool) -> None:
    """What is sound there mends what is bad here."""
    copy = shutil.copytree(folder(harvested), tmp_path / "copy")
    whole = content(folder(harvested))
    (copy / "README.md").write_text("damaged")
    (copy / SHARD).unlink()
    (folder(harvested) / "documents.parquet").unlink()
    status, out, err = harvested("store", "verify", "--repair", "--from", copy.as_uri() if url else str(copy))
    assert status == 0 and "documents.parquet" in out, err
    assert content(folder(harvested)) == whole


def test_a_store_that_is_not_the_expected_one_is_not_repaired(harvested: TinyProject) -> None:
    flip(folder(harvested) / SHARD)
    status, _, err = harvested("store", "verify", "--repair", "--expect", "0" * 8)
    assert status == 1 and "nothing was repaired" in err
    assert harvested("store", "verify")[0] == 1


@pytest.mark.parametrize("flags", [["--repair", "--sample", "5%"], ["--from", "."], ["--repair", "--from", "nowhere"]])
def test_flags_of_verify_that_do_not_go_together(harvested: TinyProject, flags: list[str]) -> None:
    assert harvested("store", "verify", *flags)[0] == 2


def test_inspect_shows_text_and_norms(harvested: TinyProject, tiny_model: Path) -> None:
    opened = store.open(folder(harvested))
    facts = json.loads(harvested("store", "inspect", "--row", "2", "--json")[1])
    x = opened.read(1, [2]).double().numpy()[0]
    assert [t["id"] for t in facts["tokens"]] == opened.tokens([2])[0].tolist()
    assert [t["document"] for t in facts["tokens"]] == opened.document([2])[0].tolist()
    np.testing.assert_allclose([t["norm"]["1"] for t in facts["tokens"]], np.linalg.norm(x, axis=1), rtol=1e-5)
    assert facts["not finite"] == {"1": 0} and facts["tokenizer"] == "tiny/tiny"
    lines = (harvested.root / "corpus.jsonl").read_text().splitlines()
    for document in facts["documents"]:
        text = json.loads(lines[int(document["id"].split(":")[1])])["text"]
        mine = "".join(t["text"] for t in facts["tokens"] if t["document"] == document["document"])
        assert len(mine) > 3 and mine in text
    status, out, err = harvested("store", "inspect", "--row", "2")
    assert status == 0 and facts["text"] in out and "norm L1" in out, err


def test_inspect_finds_a_document(harvested: TinyProject) -> None:
    opened = store.open(folder(harvested))
    facts = json.loads(harvested("store", "inspect", "--document", "corpus.jsonl:7", "--json")[1])
    number = opened.documents["id"].tolist().index("corpus.jsonl:7")
    rows = np.flatnonzero((opened.document(range(opened.n_sequences)) == number).any(axis=1))
    assert facts["document in sequences"] == rows.tolist() and facts["sequence"] == rows[0]
    for flags in (["--document", "nobody"], ["--row", "100000"], ["--row", "1", "--document", "corpus.jsonl:7"]):
        assert harvested("store", "inspect", *flags)[0] == 2


def test_inspect_without_the_tokenizer_says_why(harvested: TinyProject, tmp_path: Path, tiny_model: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    flip(other / "tokenizer.json")
    harvested.params["profiles"]["tiny"]["model"]["source"] = str(other)
    harvested.save()
    facts = json.loads(harvested("store", "inspect", "--json")[1])
    assert "not the one that made this text" in facts["tokenizer"] and facts["text"] == ""
    harvested.params["profiles"]["tiny"]["model"]["source"] = str(tmp_path / "absent")
    harvested.save()
    status, out, err = harvested("store", "inspect")
    assert status == 0 and "no such model folder" in out, err


def test_inspect_loads_no_weights(harvested: TinyProject, tmp_path: Path, tiny_model: Path) -> None:
    bare = shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    harvested.params["profiles"]["tiny"]["model"]["source"] = str(bare)
    harvested.save()
    assert json.loads(harvested("store", "inspect", "--json")[1])["text"]


def test_stats_are_those_of_numpy(harvested: TinyProject) -> None:
    opened = store.open(folder(harvested))
    facts = json.loads(harvested("store", "stats", "--json")[1])["layers"]["1"]
    x = opened.read(1, range(opened.n_sequences)).double().numpy()
    rows = opened.rows("train")
    kept = x[rows][opened.document(rows) >= 0]
    norms = np.linalg.norm(x, axis=2)
    assert facts["kept train tokens"] == len(kept) and facts["values not finite"] == 0
    assert facts["sequences read"] == len(x)
    assert facts["norm of the mean"] == pytest.approx(np.linalg.norm(kept.mean(axis=0)), rel=1e-5)
    assert facts["scale"] == pytest.approx(np.sqrt(kept.var(axis=0).sum()), rel=1e-5)
    assert facts["median norm"] == pytest.approx(np.median(norms), rel=1e-5)
    assert facts["sinks (norm above 5 medians)"] == (norms > 5 * np.median(norms)).sum()
    assert facts["largest variances"][0]["dimension"] == kept.var(axis=0).argmax()
    assert facts["largest means"][0]["dimension"] == np.abs(kept.mean(axis=0)).argmax()
    position = np.nonzero(opened.document(rows) >= 0)[1]
    at = {p: np.linalg.norm(kept, axis=1)[position == p].mean() for p in range(1, 16)}
    assert facts["mean norm"]["position 1"] == pytest.approx(at[1], rel=1e-5)
    assert facts["mean norm"]["median of positions"] == pytest.approx(np.median(list(at.values())), rel=1e-5)
    status, out, err = harvested("store", "stats", "--layer", "1")
    assert status == 0 and "largest means" in out, err
    assert harvested("store", "stats", "--layer", "7")[0] == 2


def test_a_subset_can_be_listed_verified_and_trained_on(harvested: TinyProject) -> None:
    status, out, err = harvested("store", "subset", STORE, "data/stores/tiny-part", "--tokens", "640")
    assert status == 0 and "root digest" in out and "40 of" in out, err
    assert harvested("store", "verify", "data/stores/tiny-part")[0] == 0
    rows = {row["store"]: row for row in json.loads(harvested("store", "ls", "--json")[1])}
    assert rows["data/stores/tiny-part"]["tokens"] == 640 and rows["data/stores/tiny-part"]["model"] == "tiny/tiny"
    status, _, err = harvested("train", "--variant", "topk", "--store", "data/stores/tiny-part", "--out", "run")
    assert status == 0, err
    assert "tiny/tiny" in (harvested.root / "data/stores/tiny-part/README.md").read_text()


def test_a_subset_of_documents_in_a_file(harvested: TinyProject) -> None:
    (harvested.root / "ids.txt").write_text("corpus.jsonl:3\ncorpus.jsonl:9\n\n")
    status, _, err = harvested("store", "subset", STORE, "part", "--documents", "ids.txt", "--layer", "1")
    assert status == 0, err
    assert store.open(harvested.root / "part").documents["id"].tolist() == ["corpus.jsonl:3", "corpus.jsonl:9"]


@pytest.mark.parametrize(
    "flags", [[], ["--tokens", "9", "--documents", "ids"], ["--documents", "none"], ["--layer", "7"]]
)
def test_a_subset_of_nothing_known(harvested: TinyProject, flags: list[str]) -> None:
    assert harvested("store", "subset", STORE, "part", *flags)[0] == 2
    assert not (harvested.root / "part").exists()


def test_ls_shows_every_state(harvested: TinyProject) -> None:
    stores = harvested.root / "data/stores"
    shutil.copytree(stores / "tiny-L1", stores / "tiny-broken")
    (stores / "tiny-broken/manifest.json").write_text("{")
    status, out, _ = harvested("store", "ls")
    assert status == 0 and "unreadable" in out and "complete" in out and "tiny/tiny" in out
    opened = store.open(stores / "tiny-L1")
    assert f"{opened.n_sequences * opened.context:,}" in out
    assert max(map(len, out.splitlines())) <= 100


def test_what_a_store_says_does_not_steer_the_terminal(harvested: TinyProject) -> None:
    harm = "\x1b[2J[red]\u202e\x9b"
    edit(folder(harvested), lambda document: document["request"]["model"].update(name=harm), sealed=True)
    for command in ("ls", "info", "inspect"):
        for flags in ([], ["--json"]):
            status, out, err = harvested("store", command, *flags)
            assert status == 0 and not set("\x1b\x9b\u202e") & set(out + err), (command, flags)
    assert json.loads(harvested("store", "ls", "--json")[1])[0]["model"] == harm
    assert console.printable("a\ud800\n[b]é") == "a\\ud800\n[b]é"


@pytest.mark.parametrize("command", ["info", "verify", "stats"])
def test_what_the_system_refuses_is_one_message(project: TinyProject, command: str) -> None:
    status, out, err = project("store", command, "x" * 300)
    assert (status, out) == (1, "") and "File name too long" in err and "Traceback" not in err


def test_foreign_files_of_any_name_are_told(harvested: TinyProject) -> None:
    (folder(harvested) / os.fsdecode(b"\xff\x1b")).write_text("mine")
    status, _, err = harvested("store", "verify")
    assert status == 1 and "\\udcff" in err
    status, out, _ = harvested("store", "verify", "--json")
    assert status == 1 and len(json.loads(out)["problems"]) == 1
