from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import store
from stages.harvest import selfcheck
from stages.harvest.estimate import estimate
from stages.harvest.harvest import harvest
from stages.harvest.request import at_recorded_revision, make_request
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.decoder import decoder_layers
from stages.language_model.model import load
from store.files import files_below
from store.manifest import Manifest
from store.problem import Problem
from tests.harvest.small import CONFIG, interrupt_after_first_shard
from tests.project import write_corpus
from tests.store.make import content


def test_stored_activations_are_those_of_the_unmodified_model(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    result = harvest(tmp_path / "s", CONFIG, model, text)
    opened = store.open(tmp_path / "s")
    assert result.did == "harvested" and result.n_sequences == opened.n_sequences > 20
    lm = load(model)
    rows = np.array([0, opened.n_sequences // 2, opened.n_sequences - 1])
    tokens = torch.from_numpy(opened.tokens(rows).astype(np.int64))
    seen: dict[int, torch.Tensor] = {}
    for layer in (0, 2):
        decoder_layers(lm.model)[layer].register_forward_hook(
            lambda _m, _i, out, layer=layer: seen.__setitem__(layer, out if torch.is_tensor(out) else out[0])
        )
    with torch.inference_mode():
        lm.model(tokens)
    for layer in (0, 2):
        torch.testing.assert_close(opened.read(layer, rows), seen[layer], rtol=1e-4, atol=1e-4)


def test_every_document_is_whole_in_token_order_and_in_one_split(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    harvest(tmp_path / "s", CONFIG, model, text)
    opened = store.open(tmp_path / "s")
    lm = load(model)
    texts = [json.loads(line)["text"] for line in Path(text.source).read_text().splitlines()]
    everything = np.arange(opened.n_sequences)
    tokens, document = opened.tokens(everything), opened.document(everything)
    assert len(opened.documents) == len(texts)
    for number, whole in enumerate(texts):
        assert lm.tokenizer.decode(tokens[document == number].tolist()) == whole
    for split in ("train", "heldout"):
        members = document[opened.rows(split)]
        assert set(opened.documents["split"].iloc[np.unique(members[members >= 0])]) == {split}


def test_a_second_harvest_does_nothing(tmp_path: Path, model: ModelConfig, text: CorpusConfig) -> None:
    first = harvest(tmp_path / "s", CONFIG, model, text)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    second = harvest(tmp_path / "s", CONFIG, model, text)
    assert (second.did, second.root, second.tokens_per_second) == ("finished before", first.root, None)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")} == before


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_shard_is_harvested_again_to_the_same_bytes(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    first = harvest(tmp_path / "s", CONFIG, model, text)
    whole = content(tmp_path / "s")
    shard = tmp_path / "s/activations.zarr/layers/2/resid_post/c/1/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    again = harvest(tmp_path / "s", CONFIG, model, text)
    assert (again.did, again.root) == ("resumed and finished", first.root)
    assert content(tmp_path / "s") == whole


def test_another_request_is_refused_or_replaces_the_whole(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    first = harvest(tmp_path / "s", CONFIG, model, text)
    other = replace(CONFIG, context=24)
    with pytest.raises(Problem, match="other parameters"):
        harvest(tmp_path / "s", other, model, text)
    assert store.open(tmp_path / "s").root == first.root
    second = harvest(tmp_path / "s", other, model, text, replace=True)
    assert second.root != first.root and store.open(tmp_path / "s").context == 24


def test_what_cannot_be_harvested_replaces_nothing(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus without texts, a model that does not load, a full disk and values that are not finite show after the new
    store has begun."""
    first = harvest(tmp_path / "s", CONFIG, model, text)
    whole, other = content(tmp_path / "s"), replace(CONFIG, context=24)
    (tmp_path / "bad.jsonl").write_text('{"txt": "bad"}\n')
    bad = replace(text, source=str(tmp_path / "bad.jsonl"))

    def refuse(*_: object) -> None:
        raise Problem("no")

    with pytest.raises(Problem, match="text"):
        harvest(tmp_path / "s", CONFIG, model, bad, replace=True)
    for place in ("harvest.load", "harvest.check_disk", "harvest.write_sequences", "activations.harvest_shard"):
        with monkeypatch.context() as patch, pytest.raises(Problem, match="no"):
            patch.setattr(f"stages.harvest.{place}", refuse)
            harvest(tmp_path / "s", other, model, text, replace=True)
        assert content(tmp_path / "s") == whole and not list(tmp_path.glob(".s.replaced")), place
    again = harvest(tmp_path / "s", CONFIG, model, text)
    assert (again.did, again.root) == ("finished before", first.root)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("wanted", ["the new one", "the old one", "a third one"])
@pytest.mark.parametrize("shards", [0, 1])
def test_a_replacement_that_was_interrupted_goes_on_or_gives_way(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, wanted: str, shards: int
) -> None:
    first = harvest(tmp_path / "s", CONFIG, model, text)
    new = replace(CONFIG, context=24)
    if shards:
        interrupt_after_first_shard(tmp_path / "s", model, text, new, replace=True)
    else:  # killed while it read the text: nothing was brought back
        (tmp_path / "s").rename(tmp_path / ".s.replaced")
        interrupt_after_first_shard(tmp_path / "s", model, text, new)
    assert list(tmp_path.glob(".s.replaced")) and Manifest.load(tmp_path / "s").root is None
    contexts = {"the new one": 24, "the old one": CONFIG.context, "a third one": 20}
    result = harvest(tmp_path / "s", replace(CONFIG, context=contexts[wanted]), model, text, replace=True)
    assert store.open(tmp_path / "s").context == contexts[wanted]
    assert not list(tmp_path.glob(".s.replaced*"))
    assert (result.root == first.root) == (wanted == "the old one") == (result.did == "finished before")


def test_a_replacement_without_room_for_both_deletes_the_old_store_first(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(tmp_path / "s", CONFIG, model, text)
    usage, size = shutil.disk_usage(tmp_path), sum(file.stat().st_size for file in files_below(tmp_path / "s"))
    seen = []

    def free(_path: Path) -> Any:
        seen.append((tmp_path / ".s.replaced").exists())
        return usage._replace(free=(64 << 20) + size // 4)

    monkeypatch.setattr(shutil, "disk_usage", free)
    harvest(tmp_path / "s", replace(CONFIG, context=24), model, text, replace=True)
    assert seen == [True, True] and not list(tmp_path.glob(".s.replaced*"))


def test_a_stale_store_aside_takes_no_other_ones_place(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(tmp_path / ".s.replaced", CONFIG, model, text)
    other = harvest(tmp_path / "s", replace(CONFIG, heldout=0.4), model, text)

    def refuse(*_: object) -> None:
        raise Problem("no")

    monkeypatch.setattr("stages.harvest.harvest.load", refuse)
    with pytest.raises(Problem, match="no"):
        harvest(tmp_path / "s", replace(CONFIG, context=24), model, text, replace=True)
    assert store.open(tmp_path / "s").root == other.root


def test_a_store_behind_a_link_is_replaced_where_it_lies(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    (tmp_path / "disk").mkdir()
    harvest(tmp_path / "disk" / "s", CONFIG, model, text)
    (tmp_path / "s").symlink_to("disk/s")
    harvest(tmp_path / "s", replace(CONFIG, context=24), model, text, replace=True)
    assert (tmp_path / "s").is_symlink() and store.open(tmp_path / "disk" / "s").context == 24
    assert not list(tmp_path.rglob("*.replaced*"))


def test_rows_that_the_model_cannot_read_are_wrong_usage(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig
) -> None:
    with pytest.raises(Problem, match="does not read so many positions") as caught:
        harvest(tmp_path / "s", replace(CONFIG, context=10**12), model, text)
    assert caught.value.exit_status == 2 and not (tmp_path / "s").exists()


@pytest.mark.usefixtures("small_shards")
def test_a_machine_that_cannot_follow_the_plan_refuses_to_append(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after_first_shard(tmp_path / "s", model, text)
    monkeypatch.setattr("stages.harvest.plan.cpu_capability", lambda: "another machine")
    with pytest.raises(Problem, match="cannot continue") as caught:
        harvest(tmp_path / "s", CONFIG, model, text)
    assert "cpu another machine" in str(caught.value.found)


@pytest.mark.usefixtures("small_shards")
def test_a_resume_keeps_the_recorded_batches(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = harvest(tmp_path / "u", CONFIG, model, text)
    interrupt_after_first_shard(tmp_path / "s", model, text)
    resumed = harvest(tmp_path / "s", replace(CONFIG, batch_rows=3), model, text)
    assert resumed.did == "resumed and finished"
    assert resumed.root == undisturbed.root and content(tmp_path / "s") == content(tmp_path / "u")


@pytest.mark.parametrize("wrong", ["bits", "model"])
def test_the_self_check_sees_what_is_not_the_models(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    if wrong == "bits":
        original = store.StoreWriter.write_shard
        monkeypatch.setattr(
            store.StoreWriter,
            "write_shard",
            lambda self, shard, payload: original(
                self, shard, {k: np.nextafter(v, np.float32(9)) for k, v in payload.items()}
            ),
        )
    else:
        original_unbatched = selfcheck._unbatched
        monkeypatch.setattr(
            selfcheck,
            "_unbatched",
            lambda *a: {k: v * 1.001 for k, v in original_unbatched(*a).items()},
        )
    with pytest.raises(Problem, match="self-check"):
        harvest(tmp_path / "s", CONFIG, model, text)
    with pytest.raises(Problem):
        store.open(tmp_path / "s")


def test_the_self_check_allows_one_token_a_longer_tail_than_a_sequence(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, tolerance = selfcheck._unbatched, selfcheck.TOLERANCE["float32"]

    def with_one_token_off(*args: Any) -> dict[int, Tensor]:
        found = {layer: x.clone() for layer, x in original(*args).items()}
        for x in found.values():
            x[5] *= 1 + 2 * tolerance
        return found

    monkeypatch.setattr(selfcheck, "_unbatched", with_one_token_off)
    harvest(tmp_path / "s", CONFIG, model, text)
    check = json.loads((tmp_path / "s.run.json").read_text())["self_check"]
    assert check["worst_sequence"] < tolerance < check["worst_token"]


def test_too_little_disk_is_refused_before_the_first_shard(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(Problem, match="Too little disk"):
        harvest(tmp_path / "s", CONFIG, model, text)
    with pytest.raises(Problem, match="Too little disk"):
        estimate(tmp_path / "s", CONFIG, model, text)


def test_the_estimate_of_what_is_there_needs_no_disk(
    tmp_path: Path, model: ModelConfig, text: CorpusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(tmp_path / "s", CONFIG, model, text)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=(64 << 20) + 1000))
    assert estimate(tmp_path / "s", CONFIG, model, text).sequences == store.open(tmp_path / "s").n_sequences


@pytest.mark.usefixtures("small_shards")
def test_the_estimate_is_what_the_harvest_then_writes(tmp_path: Path, model: ModelConfig, text: CorpusConfig) -> None:
    planned = estimate(tmp_path / "s", CONFIG, model, text)
    done = harvest(tmp_path / "s", CONFIG, model, text)
    size = sum(path.stat().st_size for path in (tmp_path / "s/activations.zarr").rglob("*") if path.is_file())
    assert planned.sequences == done.n_sequences
    assert planned.bytes <= size < planned.bytes * 1.2 + 20_000


def test_a_request_names_the_content_not_the_place(tmp_path: Path, tiny_model: Path, text: CorpusConfig) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    here = make_request(CONFIG, ModelConfig(name="m", source=str(tiny_model)), text)
    there = make_request(CONFIG, ModelConfig(name="m", source=str(copy)), text)
    assert here == there and str(tmp_path) not in json.dumps(there)


def test_a_data_set_is_read_at_the_revision_that_a_store_has(
    tmp_path: Path, model: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody adds to the data set after the harvest; later there is no network. Nothing is harvested again."""
    asked = []

    def load_dataset(source: str, *, revision: str, **_: object) -> list[dict[str, str]]:
        asked.append(revision)
        return [{"text": f"{word} " * 40} for word in ("one", "two", "three")]

    hub = SimpleNamespace(dataset_info=lambda *_, **__: SimpleNamespace(sha=head))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    head, text = "1" * 40, CorpusConfig("owner/data")
    done = harvest(tmp_path / "s", CONFIG, model, at_recorded_revision(text, [tmp_path / "s"]))
    assert set(asked) == {head}
    head = "2" * 40
    assert make_request(CONFIG, model, text)["corpus"]["revision"] == head
    recorded = at_recorded_revision(text, [tmp_path / "none", tmp_path / "s"])
    assert recorded.revision == "1" * 40
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    again = harvest(tmp_path / "s", CONFIG, model, recorded, replace=True)
    assert (again.did, again.root) == ("finished before", done.root)
    assert at_recorded_revision(CorpusConfig("owner/other"), [tmp_path / "s"]).revision is None


def test_a_layer_that_the_model_lacks(tmp_path: Path, model: ModelConfig, text: CorpusConfig) -> None:
    with pytest.raises(Problem, match="no layer 3") as caught:
        make_request(replace(CONFIG, layers=3), model, text)
    assert "0 to 2" in str(caught.value.expected) and caught.value.exit_status == 2


CHILD = """
import sys, json
from pathlib import Path
import store.manifest
store.manifest.SHARD_BYTES = int(sys.argv[5])
import torch; torch.set_num_threads(1)
from stages.harvest.config import HarvestConfig
from stages.harvest.harvest import harvest
from stages.language_model.config import CorpusConfig, ModelConfig
folder, (model, text, config) = Path(sys.argv[1]), map(json.loads, sys.argv[2:5])
print("ready", flush=True)
harvest(folder, HarvestConfig(**config), ModelConfig(**model), CorpusConfig(**text))
"""


def _child(folder: Path, model: ModelConfig, text: CorpusConfig, shard_bytes: int = 0) -> subprocess.Popen[bytes]:
    arguments = [str(folder), json.dumps(asdict(model)), json.dumps(asdict(text)), json.dumps(asdict(CONFIG))]
    arguments.append(str(shard_bytes))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_tokens(tmp_path: Path, model: ModelConfig) -> None:
    peaks = []
    for documents in (300, 1_500):
        text = CorpusConfig(source=str(write_corpus(tmp_path / f"{documents}.jsonl", documents)))
        child = _child(tmp_path / f"s{documents}", model, text, shard_bytes=2**20)
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0
        peaks.append(usage.ru_maxrss / 1024)
    written = sum(p.stat().st_size for p in (tmp_path / "s1500").rglob("*") if p.is_file()) / 2**20
    assert written > 25
    assert peaks[1] - peaks[0] < 0.5 * written, f"peaks {peaks} MiB for {written:.0f} MiB more on disk"
