"""A manifest that is damaged, foreign or hostile is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import store
from store import ActivationStore, StoreSpec
from store.files import digest
from store.manifest import NAME, Manifest
from store.problem import Problem
from tests.store.make import make


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> None:
    """Change a manifest and, like someone who knows the format, make its digests fit again."""
    document = json.loads((folder / NAME).read_text())
    change(document)
    if sealed:
        document["root"] = digest({"fingerprint": digest(document["request"]), "files": document["files"]})
        document.pop("checksum")
        document["checksum"] = digest(document)
    (folder / NAME).unlink()
    (folder / NAME).write_text(json.dumps(document))


def test_saving_and_loading_is_the_identity(activations: ActivationStore) -> None:
    before = (activations.path / NAME).read_bytes()
    Manifest.load(activations.path).save(activations.path)
    assert (activations.path / NAME).read_bytes() == before


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = make(tmp_path_factory.mktemp("manifest") / "store").path
    return folder, (folder / NAME).read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_flipped_bit_is_found(shared: tuple[Path, bytes], place: float, bit: int) -> None:
    folder, sound = shared
    broken = bytearray(sound)
    broken[int(place * len(sound))] ^= 1 << bit
    (folder / NAME).write_bytes(broken)
    with pytest.raises(Problem):
        store.open(folder)
    with pytest.raises(Problem):
        store.verify(folder)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "a//b", "./a", "", "a\\b", "a\nb", NAME, "a/.."]
)
def test_names_that_lead_out_of_the_store_are_refused(activations: ActivationStore, name: str) -> None:
    record = {"size": 0, "sha256": "0" * 64}
    edit(activations.path, lambda document: document["files"].update({name: record}))
    with pytest.raises(Problem, match="outside its store") as problem:
        store.open(activations.path)
    assert repr(name) in str(problem.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["files"].pop("documents.parquet"),
        lambda document: document["files"].update(foreign={"size": 0, "sha256": "0" * 64}),
        lambda document: document.update(n_sequences=42),
        lambda document: document.update(context=4),
        lambda document: document.update(dtype="float16"),
        lambda document: document.update(dtype="int8"),
        lambda document: document.update(context=0),
        lambda document: document.update(n_sequences="many"),
        lambda document: document["layers"]["3"].update(d=5),
        lambda document: document.update(layers={}),
        lambda document: document.pop("plan"),
        lambda document: document.update(files=[]),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    activations: ActivationStore, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(activations.path, change)
    with pytest.raises(Problem, match="damaged"):
        store.open(activations.path)


def test_another_version_says_so(activations: ActivationStore) -> None:
    edit(activations.path, lambda document: document.update(version=2))
    with pytest.raises(Problem, match=r"expected: version 1\s+found: version 2"):
        store.open(activations.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "something else"}', "\xff"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(Problem, match="damaged"):
        store.open(tmp_path)


def test_the_fingerprint_is_of_the_request_alone() -> None:
    def fingerprint(request: dict[str, Any], context: int = 8) -> str:
        return StoreSpec(request, context, "float32", {0: 4}).fingerprint

    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": (2,), "a": 1}, context=16)
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.parametrize(
    ("context", "dtype", "layers"), [(8, "int8", {0: 4}), (0, "float32", {0: 4}), (8, "float32", {})]
)
def test_a_store_that_cannot_be_is_refused(context: int, dtype: str, layers: dict[int, int]) -> None:
    with pytest.raises(Problem):
        StoreSpec({}, context, dtype, layers)
