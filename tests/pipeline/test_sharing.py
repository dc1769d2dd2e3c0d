"""`pipeline store push` and `pull`, and commands that read a store at a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import store
from tests.project import TinyProject
from tests.store.make import content
from tests.store.remotes import web_server


@pytest.fixture
def harvested(project: TinyProject, tmp_path: Path) -> TinyProject:
    project.patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status, _, err = project("harvest")
    assert status == 0, err
    return project


def test_a_store_goes_to_a_teammate_who_trains_from_it(harvested: TinyProject, tmp_path: Path) -> None:
    shared = str(tmp_path / "shared/tiny-L1")
    status, out, err = harvested("store", "push", shared, "--compress")
    assert status == 0, err
    assert f"{shared}: pushed data/stores/tiny-L1" in out and "root digest" in out
    assert "already there" in harvested("store", "push", "data/stores/tiny-L1", shared, "--compress")[1]
    mine = content(harvested.root / "data/stores/tiny-L1")
    (harvested.root / "data/stores").rename(tmp_path / "away")
    status, out, err = harvested("store", "pull", shared)
    assert status == 0 and f"data/stores/tiny-L1: pulled from {shared}" in out, err
    assert content(harvested.root / "data/stores/tiny-L1") == mine
    facts = json.loads(harvested("store", "pull", shared, "--profile", "tiny", "--json")[1])
    assert facts["store"] == "data/stores/tiny-L1" and facts["already there"]
    assert harvested("train", "--variant", "topk")[0] == 0


def test_a_run_reads_a_store_at_a_url(harvested: TinyProject) -> None:
    with web_server(harvested.root / "data/stores") as url:
        facts = json.loads(harvested("store", "info", f"{url}/tiny-L1", "--json")[1])
        assert facts["root digest"] == store.open(harvested.root / "data/stores/tiny-L1").root
        status, _, err = harvested("train", "--variant", "topk", "--store", f"{url}/tiny-L1")
        assert status == 0 and f"store: {url}/tiny-L1" in err
        (run,) = (harvested.root / "runs/tiny/topk").glob("seed0-????????")
        status, _, err = harvested("evaluate", str(run), "--store", f"{url}/tiny-L1")
        assert status == 0, err
        status, _, err = harvested("harvest", "--store", f"{url}/tiny-L1")
        assert status == 2 and "has to be a folder" in err


def test_what_cannot_be_done_says_why(harvested: TinyProject) -> None:
    for arguments, status, message in [
        (("push", "a", "b", "c"), 2, "one address"),
        (("push", "nothing", "elsewhere"), 1, "not an activation store"),
        (("push", "nonsense://bucket/store"), 2, "no address of a store"),
        (("push", "http://127.0.0.1:9/store"), 2, "only hands stores out"),
        (("pull", "elsewhere"), 1, "no finished activation store"),
        (("pull", "s3://bucket/.."), 2, "does not end in a name"),
        (("pull", "s3://bucket/store", "s3://bucket/other"), 2, "has to be a folder"),
        (("subset", "data/stores/tiny-L1", "s3://bucket/store"), 2, "has to be a folder"),
        (("verify", "s3://bucket/store"), 2, "has to be a folder"),
    ]:
        found, _, err = harvested("store", *arguments)
        assert found == status and message in err and "Traceback" not in err
