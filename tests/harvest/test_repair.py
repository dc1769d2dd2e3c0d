"""Bad files of a harvested store come back from the corpus and the model, to the recorded bytes or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import store
from stages.harvest.activations import harvest_shard
from stages.harvest.card import known_facts
from stages.harvest.config import HarvestConfig
from stages.harvest.harvest import harvest
from stages.harvest.repair import from_harvest, from_request
from stages.language_model.config import CorpusConfig, ModelConfig
from store.repair import Remake, Repair
from tests.project import write_corpus
from tests.store.damage import flip
from tests.store.make import content
from tests.tiny import tiny_model_folder

CONFIG = HarvestConfig(layers="0-2", context=16, heldout=0.2, dtype="bfloat16")
SHARD = "activations.zarr/layers/2/resid_post/c/1/0/0"
NAMES = [
    SHARD,
    "activations.zarr/layers/0/resid_post/c/2/0/0",
    "activations.zarr/tokens/c/1/0",
    "activations.zarr/document/c/0/0",
    "documents.parquet",
    "README.md",
    "activations.zarr/layers/2/statistics/mean/c/0",
]


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory, model: ModelConfig, text: CorpusConfig) -> Path:
    folder = tmp_path_factory.mktemp("harvested") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("store.manifest.SHARD_BYTES", 0)
        harvest(folder, CONFIG, model, text)
    return folder


@pytest.fixture
def folder(harvested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("store.manifest.SHARD_BYTES", 0)
    return shutil.copytree(harvested, tmp_path / "store")


def ways(model: ModelConfig, text: CorpusConfig, config: HarvestConfig = CONFIG) -> dict[str, Remake]:
    return {"request": from_request, "harvest": from_harvest(config, model, text)}


def assert_as_it_was(folder: Path, harvested: Path, result: Repair) -> None:
    assert not result.left and content(folder) == content(harvested)
    assert {path.name for path in folder.parent.iterdir()} == {"store", "store.lock"}


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file(folder: Path, harvested: Path, model: ModelConfig, text: CorpusConfig, name: str) -> None:
    flip(folder / name)
    result = store.repair(folder, ways(model, text))
    assert list(result.mended) == [name]
    assert_as_it_was(folder, harvested, result)


def test_all_files_at_once(folder: Path, harvested: Path, model: ModelConfig, text: CorpusConfig) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()
    result = store.repair(folder, ways(model, text, replace(CONFIG, batch_rows=3)))  # the recorded batches count
    assert_as_it_was(folder, harvested, result)


@pytest.mark.parametrize("wrong", ["model", "text", "parameters"])
def test_what_made_another_store_is_refused_and_everything_left_as_it_was(
    folder: Path, model: ModelConfig, text: CorpusConfig, tmp_path: Path, wrong: str
) -> None:
    config = CONFIG
    if wrong == "model":
        other = tiny_model_folder(tmp_path, kind="gemma3", layers=3, d=32, seed=1)
        model = replace(model, source=str(other))
    elif wrong == "text":
        text = CorpusConfig(source=str(write_corpus(tmp_path / "text.jsonl", 40, seed=1)))
    else:
        config = replace(CONFIG, heldout=0.3)
    for name in (SHARD, "documents.parquet"):
        flip(folder / name)
    damaged = content(folder)
    result = store.repair(folder, ways(model, text, config))
    assert set(result.left) == {SHARD, "documents.parquet"} and not result.mended
    assert "not those that this store was harvested with" in result.reasons[0]
    assert content(folder) == damaged


def test_a_machine_that_cannot_follow_the_plan_is_refused(
    folder: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is packed all the same: it does not depend on the plan."""
    monkeypatch.setattr("stages.harvest.plan.cpu_capability", lambda: "another machine")
    flip(folder / SHARD)
    flip(folder / "documents.parquet")
    damaged = (folder / SHARD).read_bytes()
    result = store.repair(folder, ways(model, text))
    assert list(result.left) == [SHARD] and "cpu another machine" in result.reasons[0]
    assert (folder / SHARD).read_bytes() == damaged


def test_other_bytes_of_the_same_model_are_not_kept(
    folder: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = harvest_shard
    monkeypatch.setattr(
        "stages.harvest.repair.harvest_shard",
        lambda *arguments: {layer: x ^ 1 for layer, x in original(*arguments).items()},
    )
    flip(folder / SHARD)
    damaged = content(folder)
    result = store.repair(folder, ways(model, text))
    assert list(result.left) == [SHARD] and "other content" in result.reasons[0]
    assert content(folder) == damaged


def test_the_card_of_a_subset(folder: Path, tmp_path: Path) -> None:

    opened = store.open(folder)
    store.subset(opened, tmp_path / "part", store.Selection(layers=(2,)), known_facts)
    written = (tmp_path / "part/README.md").read_text()
    assert "tiny/gemma3" in written and opened.root in written and "blocks.0" not in written
    flip(tmp_path / "part/README.md")
    assert not store.repair(tmp_path / "part", {"request": from_request}).left
    assert (tmp_path / "part/README.md").read_text() == written


@pytest.mark.parametrize("plan", [{}, {"threads": "many"}, {"torch": 1, "more": {}}])
def test_a_plan_that_is_none(folder: Path, model: ModelConfig, text: CorpusConfig, plan: dict[str, object]) -> None:
    manifest = store.manifest.Manifest.load(folder)
    replace(manifest, plan=plan).save(folder)
    flip(folder / SHARD)
    result = store.repair(folder, ways(model, text))
    assert list(result.left) == [SHARD] and "none of a harvest" in result.reasons[0]
