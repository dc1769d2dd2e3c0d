"""A subset is a store of its own: what it keeps is unchanged, what it leaves out is gone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import store
from store import ActivationStore, Selection
from store.problem import Problem
from tests.store.damage import SHARD, flip
from tests.store.make import CONTEXT, N_ROWS, content, text
from tests.store.make import activations as stored


def bits(opened: ActivationStore, layer: int) -> np.ndarray:
    return opened.read(layer, range(opened.n_sequences)).view(torch.uint16).numpy()


def links(folder: Path, source: Path) -> set[str]:
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return {n for n in names if (source / n).exists() and (source / n).stat().st_ino == (folder / n).stat().st_ino}


def test_a_subset_of_layers_writes_no_activations(activations: ActivationStore, tmp_path: Path) -> None:
    """Layer 3 is the narrow one: its shards would be longer if they followed from its own width."""
    before = content(activations.path)
    root = store.subset(activations, tmp_path / "part", Selection(layers=(3,)))
    part = store.open(tmp_path / "part")
    part.check()
    assert part.root == root and list(part.layers) == [3] and store.verify(part.path).problems == []
    assert np.array_equal(bits(part, 3), bits(activations, 3))
    assert np.array_equal(part.statistics(3).mean, activations.statistics(3).mean)
    written = set(content(part.path)) - links(part.path, activations.path)
    assert {Path(name).name for name in written} == {"manifest.json", "README.md", "zarr.json"}
    assert not any("statistics" in name for name in written)
    assert content(activations.path) == before


def test_where_files_cannot_be_linked_they_are_copied(
    activations: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = store.subset(activations, tmp_path / "linked", Selection(layers=(3,)))

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert store.subset(activations, tmp_path / "copied", Selection(layers=(3,))) == linked
    assert content(tmp_path / "copied") == content(tmp_path / "linked")
    assert not links(tmp_path / "copied", activations.path)


@pytest.mark.parametrize("rows", [1, 16, 21, 32, N_ROWS, 99])
def test_the_first_tokens_are_whole_sequences(activations: ActivationStore, tmp_path: Path, rows: int) -> None:
    store.subset(activations, tmp_path / "part", Selection(tokens=rows * CONTEXT - 3))
    part = store.open(tmp_path / "part")
    part.check()
    n = min(rows, N_ROWS)
    assert part.n_sequences == n
    everything = range(n)
    assert np.array_equal(part.tokens(everything), activations.tokens(everything))
    assert np.array_equal(part.document(everything), activations.document(everything))
    for layer in (3, 11):
        assert np.array_equal(bits(part, layer), bits(activations, layer)[:n])
    assert part.documents["id"].tolist() == activations.documents["id"].tolist()[: 2 * n]
    counts = np.bincount(part.document(everything)[part.document(everything) >= 0], minlength=2 * n)
    if n < N_ROWS:
        assert part.documents["n_tokens"].tolist() == counts.tolist()
    whole = {name for name in links(part.path, activations.path) if "resid_post/c" in name}
    assert len(whole) == 2 * (n // 16 if n < N_ROWS else 3)


def test_statistics_are_those_of_the_sequences_that_are_left(activations: ActivationStore, tmp_path: Path) -> None:
    store.subset(activations, tmp_path / "part", Selection(tokens=20 * CONTEXT))
    part = store.open(tmp_path / "part")
    rows = part.rows("train")
    x = part.read(11, rows).double().numpy()[part.document(rows) >= 0]
    assert part.statistics(11).count == len(x)
    np.testing.assert_allclose(part.statistics(11).mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(part.statistics(11).variance, x.var(axis=0), rtol=1e-12)


CHOSEN = ["document 0.1", "document 7.0", "document 7.1", "document 31.0", "document 42.1"]


def test_nothing_of_other_documents_is_left(activations: ActivationStore, tmp_path: Path) -> None:
    store.subset(activations, tmp_path / "part", Selection(documents=frozenset(CHOSEN)))
    part = store.open(tmp_path / "part")
    part.check()
    source_rows = [0, 7, 31, 42]
    packed = list(text())
    assert part.n_sequences == 4 and part.documents["id"].tolist() == CHOSEN
    for row, source in enumerate(source_rows):
        _, tokens, document = packed[source]
        ids = activations.documents["id"].to_numpy()
        for position in range(CONTEXT):
            number = int(document[0, position])
            mine = number >= 0 and ids[number] in CHOSEN
            earlier = {ids[n] for n in document[0, :position] if n >= 0}
            kept = mine or (number < 0 and earlier <= set(CHOSEN))
            for layer in (3, 11):
                expected = stored(layer, source)[position] * kept
                assert np.array_equal(bits(part, layer)[row, position], expected)
            assert part.tokens([row])[0, position] == tokens[0, position] * kept
            new = int(part.document([row])[0, position])
            assert (ids[number] == part.documents["id"][new]) if mine else new == -1
    left_out = set(activations.documents["id"]) - set(CHOSEN)
    everything = b"".join(content(part.path).values())
    assert not [name for name in left_out if name.encode() in everything]


def test_shards_in_which_nothing_is_blanked_are_linked(activations: ActivationStore, tmp_path: Path) -> None:
    ids = frozenset(f"document {row}.{half}" for row in range(32) for half in range(2))
    store.subset(activations, tmp_path / "part", Selection(documents=ids))
    linked = {name for name in links(tmp_path / "part", activations.path) if "/c/" in name and "statistics" not in name}
    assert len(linked) == 2 * 4  # two shards of tokens, documents and either layer


@pytest.mark.parametrize(
    "selection",
    [Selection(layers=(3,)), Selection(tokens=100), Selection(layers=(11,), documents=frozenset(CHOSEN))],
)
def test_the_same_subset_has_the_same_root_and_is_made_once(
    activations: ActivationStore, tmp_path: Path, selection: Selection
) -> None:
    root = store.subset(activations, tmp_path / "a", selection)
    assert store.subset(activations, tmp_path / "b", selection) == root
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert store.subset(activations, tmp_path / "a", selection) == root
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_a_subset_says_of_what_it_is_one(activations: ActivationStore, tmp_path: Path) -> None:
    store.subset(activations, tmp_path / "a", Selection(layers=(11,)))
    first = store.open(tmp_path / "a")
    store.subset(first, tmp_path / "b", Selection(tokens=80))
    second = store.open(tmp_path / "b")
    assert first.request == {**activations.request, "subset": [{"of": activations.root, "layers": [11]}]}
    assert second.request["subset"] == [*first.request["subset"], {"of": first.root, "sequences": 10}]
    assert second.plan == activations.plan
    card = (first.path / "README.md").read_text()
    assert activations.root in card


class Interrupting:
    """Ctrl-C when the first shard of activations is written."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.task = task

    def advance(self, amount: int) -> None:
        if self.task == "subset":
            raise KeyboardInterrupt

    def note(self, line: str) -> None: ...


def test_an_interrupted_subset_is_begun_again(activations: ActivationStore, tmp_path: Path) -> None:
    whole = store.subset(activations, tmp_path / "whole", Selection(tokens=200))
    with pytest.raises(KeyboardInterrupt):
        store.subset(activations, tmp_path / "cut", Selection(tokens=200), progress=Interrupting())
    with pytest.raises(Problem, match="partial"):
        store.open(tmp_path / "cut")
    assert store.subset(activations, tmp_path / "cut", Selection(tokens=200)) == whole
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_damage_is_not_made_part_of_another_store(activations: ActivationStore, tmp_path: Path) -> None:
    flip(activations.path / SHARD)
    with pytest.raises(Problem, match="c/1/0/0"):
        store.subset(activations, tmp_path / "part", Selection(layers=(11,)))
    store.subset(activations, tmp_path / "sound", Selection(layers=(3,)))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(layers=(4,)), "layers"),
        (Selection(layers=()), "layer"),
        (Selection(documents=frozenset(["document 0.1", "nobody"])), "nobody"),
        (Selection(documents=frozenset()), "No document"),
    ],
)
def test_a_selection_that_the_store_does_not_have(
    activations: ActivationStore, tmp_path: Path, selection: Selection, message: str
) -> None:
    with pytest.raises(Problem, match=message):
        store.subset(activations, tmp_path / "part", selection)
    assert not (tmp_path / "part").exists()


def test_a_folder_that_is_not_free(activations: ActivationStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("keep")
    store.subset(activations, tmp_path / "other", Selection(layers=(3,)))
    for folder in (tmp_path / "mine", tmp_path / "other", activations.path, activations.path / "part"):
        before = content(folder)
        with pytest.raises(Problem):
            store.subset(activations, folder, Selection(layers=(11,)))
        assert content(folder) == before
