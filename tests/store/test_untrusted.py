"""Whatever a store holds, the outcome is a Problem or a sound store: no other error, no hang, no flood."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import store
from store import ActivationStore
from store.documents import SCHEMA, SPLITS, is_train, read_documents
from store.files import digest
from store.layout import Layout
from store.limits import MANIFEST_BYTES
from store.manifest import NAME, Manifest
from store.problem import Problem
from store.records import FileRecord
from store.statistics import parse_statistics
from tests.store.damage import rewrite
from tests.store.make import make

MEMORY = 32 * 2**20
"""More than anything here needs: a reader that believes a claim takes more, or ends in a MemoryError."""
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("untrusted") / "store").path


@pytest.fixture(scope="module")
def shared(original: Path) -> Path:
    """A store whose manifest each example replaces."""
    return shutil.copytree(original, original.with_name("shared"))


def use(folder: Path) -> None:
    """Open a store and read all of it that readers read."""
    opened = store.open(folder)
    opened.rows("train")
    _ = opened.documents
    rows = range(opened.n_sequences)
    opened.tokens(rows), opened.document(rows)
    for layer in opened.layers:
        opened.statistics(layer)
        opened.read(layer, rows)


def answered(*calls: Callable[[], object]) -> bool:
    """Whether every call went well; False where one raised a Problem. Anything else fails, and so does a flood."""
    well = True
    tracemalloc.start()
    try:
        for call in calls:
            try:
                call()
            except Problem:
                well = False
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    return well


def tried(folder: Path, text: str | bytes) -> bool:
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    (folder / NAME).write_bytes(content)
    return answered(lambda: use(folder), lambda: store.verify(folder))


def sealed(document: Any) -> str:
    """The text of a manifest with digests that fit, as far as there can be any."""
    try:
        document["fingerprint"] = digest(document["request"])
        if document["root"] is not None:
            document["root"] = digest({"fingerprint": document["fingerprint"], "files": document["files"]})
        document.pop("checksum", None)
        document["checksum"] = digest(document)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    return json.dumps(document)


NUMBERS = [0, -1, 1, 7, 8, 2**31, 2**40, 2**63, 2**64, 10**400, 0.5, 1e308, float("inf"), float("nan"), True, False]
TEXTS = ["", "a", "../x", "/etc/passwd", "\ud800", "\0", "\x1b[2J", "\u0661", "03", "-3", " 3", "x" * 10_000]
HOSTILE = st.sampled_from([*NUMBERS, *TEXTS, None, [], {}, [[[]]], {"": {}}, {"size": 0}, {"d": 2**40, "hook": ""}])


@given(data=st.data())
@FUZZ
def test_a_manifest_with_anything_in_it(original: Path, shared: Path, data: st.DataObject) -> None:
    document = json.loads((original / NAME).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place: list[str] = []  # key after key, so that the many files do not take all examples
        value = document
        while isinstance(value, dict) and value and (not place or data.draw(st.booleans())):
            place.append(data.draw(st.sampled_from(sorted(value))))
            value = value[place[-1]]
        parent = document
        for key in place[:-1]:
            parent = parent[key]
        match data.draw(st.sampled_from(["replace", "remove", "rename"])):
            case "replace":
                parent[place[-1]] = deepcopy(data.draw(HOSTILE))  # which later rounds change
            case "remove":
                del parent[place[-1]]
            case "rename":
                parent[data.draw(st.sampled_from(TEXTS))] = parent.pop(place[-1])
    if tried(shared, sealed(document)):
        assert Manifest.load(shared).files == Manifest.load(original).files


@given(change=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), min_size=1, max_size=4))
@FUZZ
def test_a_manifest_of_other_bytes(original: Path, shared: Path, change: list[tuple[float, bytes]]) -> None:
    content = bytearray((original / NAME).read_bytes())
    for place, piece in change:
        start = int(place * len(content))
        content[start : start + len(piece)] = piece
    same = json_of(content) == json.loads((original / NAME).read_bytes())
    assert tried(shared, bytes(content)) == same


def json_of(content: bytes | bytearray) -> Any:
    try:
        return json.loads(content.decode())
    except ValueError:
        return None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"request":' * 50_000,
        '{"format": "tsae-activation-store", "version": 1, "request": ' + "[" * 900 + "]" * 900 + "}",
        '{"format": "tsae-activation-store", "version": 1' + ', "a": 0' * 50_000 + "}",
        "9" * 100_000,
        '{"format": NaN}',
        "\ufeff{}",
        "{}".encode("utf-16"),
    ],
)
def test_a_manifest_that_is_hardly_json(shared: Path, text: str | bytes) -> None:
    assert not tried(shared, text)


@pytest.mark.parametrize("depth", [20, 31, 32, 100, 400, 900])
def test_a_request_nested_deeply(original: Path, shared: Path, depth: int) -> None:
    document = json.loads((original / NAME).read_bytes())
    nested: Any = 0
    for _ in range(depth):
        nested = [nested]
    document["request"]["nested"] = nested
    assert tried(shared, sealed(document)) == (depth < 32)


@pytest.mark.parametrize(
    "change", ["twice", "unknown", "hook", "algorithm", "status", "float", "fingerprint", "unsealed"]
)
def test_a_manifest_is_spelled_in_one_way(original: Path, shared: Path, change: str) -> None:
    document = json.loads((original / NAME).read_bytes())
    if change in ("unknown", "unsealed"):
        document["more"] = 1
    elif change == "hook":
        document["layers"]["3"]["hook"] = "elsewhere"
    elif change == "algorithm":
        document["digest_algorithm"] = "none"
    elif change == "status":
        document["status"] = "partial"
    elif change == "float":
        document["context"] = 8.0
    elif change == "fingerprint":
        document["fingerprint"] = "0" * 64
    text = json.dumps(document) if change in ("unsealed", "fingerprint") else sealed(document)
    if change == "twice":
        text = text.replace('"context": 8', '"context": 8, "context": 8')
    assert not tried(shared, text)


def test_a_manifest_that_is_no_file(original: Path, shared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(original, tmp_path / "store")
    (folder / NAME).unlink()
    os.mkfifo(folder / NAME)
    assert not answered(lambda: store.open(folder))
    (folder / NAME).unlink()
    (folder / NAME).symlink_to(original / NAME)
    assert not answered(lambda: store.open(folder))
    (folder / NAME).unlink()
    with (folder / NAME).open("wb") as file:
        file.truncate(MANIFEST_BYTES + 1)
    assert not answered(lambda: store.open(folder))


@given(
    n_sequences=st.sampled_from([1, 43, 44, 2**20, 2**40]),
    context=st.sampled_from([1, 8, 2**20, 2**40]),
    rows_per_shard=st.sampled_from([1, 8, 16, 24, 2**20, 2**40]),
    d=st.sampled_from([1, 6, 2**20, 2**40]),
    partial=st.booleans(),
)
@FUZZ
def test_a_geometry_that_its_files_do_not_have(
    original: Path, shared: Path, n_sequences: int, context: int, rows_per_shard: int, d: int, partial: bool
) -> None:
    """With every `zarr.json` in the manifest made to fit: only the sizes of the shards give it away."""
    true = Manifest.load(original)
    forged = replace(
        true, n_sequences=n_sequences, context=context, rows_per_shard=rows_per_shard, layers={3: 4, 11: d}
    )
    layout = Layout(n_sequences, context, rows_per_shard, forged.dtype, forged.layers)
    fitting = {name: FileRecord.of(content) for name, content in layout.metadata().items()}
    forged = replace(forged, files=forged.files | fitting, root=None)
    same = forged == replace(true, root=None)
    (shared / NAME).unlink()
    (forged if partial else forged.completed()).save(shared)
    assert answered(lambda: Manifest.load(shared)) == same
    assert answered(lambda: use(shared)) == (same and not partial)


def test_many_layers_and_shards_cost_nothing(original: Path, shared: Path) -> None:
    """A partial store names its shards of tokens only: its layers do not multiply them without bound."""
    true = Manifest.load(original)
    forged = replace(true, root=None, layers=dict.fromkeys(range(2_000), 1))
    forged.save(shared)
    assert not answered(lambda: Manifest.load(shared))


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Put another file into a store, and seal it again as a forger would."""
    rewrite(folder / name, lambda _: content)
    manifest = Manifest.load(folder)
    replace(manifest, files=manifest.files | {name: FileRecord.of(content)}).completed().save(folder)


@given(data=st.data())
@settings(FUZZ, derandomize=True)  # pages are pyarrow's to read: what it does with all others is not ours to find out
def test_a_table_of_documents_of_other_bytes(original: Path, data: st.DataObject) -> None:
    content = bytearray((original / "documents.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    if answered(lambda: read_documents(bytes(content)), lambda: is_train(bytes(content))):
        table = read_documents(bytes(content))
        assert list(table) == SCHEMA.names and set(table["split"]) <= set(SPLITS)


def parquet(columns: dict[str, Any], schema: pa.Schema = SCHEMA, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema), buffer, **options)
    return buffer.getvalue()


GOOD: dict[str, Any] = {"id": ["a"], "source": ["s"], "label": [None], "split": ["train"], "n_tokens": [1]}


def repeated(n: int, text: str = "a") -> dict[str, Any]:
    index = pa.array(np.zeros(n, np.int32))
    return {name: pa.DictionaryArray.from_arrays(index, pa.array([text])) for name in GOOD if name != "n_tokens"} | {
        "split": pa.DictionaryArray.from_arrays(index, pa.array(["train"])),
        "n_tokens": pa.array(np.zeros(n, np.int64)),
    }


DICTIONARIES = pa.schema(
    [(f.name, pa.dictionary(pa.int32(), pa.string()) if f.type == pa.string() else f.type) for f in SCHEMA]
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1" * 3,
        parquet({**GOOD, "split": ["test"]}),
        parquet({**GOOD, "id": [None]}),
        parquet({**GOOD, "n_tokens": [-1]}),
        parquet(
            {name: GOOD[name] for name in ("id", "split")}, pa.schema([("id", pa.string()), ("split", pa.string())])
        ),
        parquet({**GOOD, "n_tokens": ["1"]}, SCHEMA.set(4, pa.field("n_tokens", pa.string()))),
        parquet(GOOD, compression="gzip"),
        parquet(repeated(2_000_000), DICTIONARIES, store_schema=False),
        parquet(repeated(500_000, "a" * 2_000), DICTIONARIES, store_schema=False),
        parquet({**GOOD, "id": pa.array([b"\xff"], pa.binary()).view(pa.string())}),
    ],
    ids=["empty", "marks", "split", "null", "negative", "columns", "types", "gzip", "rows", "text", "utf8"],
)
def test_a_table_of_documents_that_is_none(original: Path, tmp_path: Path, content: bytes) -> None:
    assert not answered(lambda: read_documents(content))
    folder = shutil.copytree(original, tmp_path / "store")
    replaced(folder, "documents.parquet", content)
    opened = store.open(folder)
    with pytest.raises(Problem):
        _ = opened.documents
    with pytest.raises(Problem):
        store.subset(opened, tmp_path / "part", store.Selection(tokens=8))


def test_documents_that_are_as_they_should_be_are_read() -> None:
    assert len(read_documents(parquet(GOOD))) == 1 and is_train(parquet(GOOD)).tolist() == [True]
    assert len(read_documents(parquet(repeated(100_000), DICTIONARIES, store_schema=False))) == 100_000


@given(data=st.data())
@FUZZ
def test_statistics_of_other_bytes(original: Path, data: st.DataObject) -> None:
    layout = Manifest.load(original).layout
    files = {name: (original / name).read_bytes() for name in layout.statistics_paths(11)}
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=9))
    changed = files | {name: bytes(content)}
    if answered(lambda: parse_statistics(layout, 11, changed)):
        statistics = parse_statistics(layout, 11, changed)
        assert np.isfinite(statistics.mean).all() and (statistics.variance >= 0).all() and statistics.count >= 0


@pytest.mark.parametrize("count", ["null", "true", "-1", '"1"', "1.0", "[]", "NaN", "[" * 5_000])
def test_statistics_of_no_count(original: Path, count: str) -> None:
    layout = Manifest.load(original).layout
    files = {name: (original / name).read_bytes() for name in layout.statistics_paths(3)}
    name = "activations.zarr/layers/3/statistics/zarr.json"
    number = str(json.loads(files[name])["attributes"]["count"]).encode()
    assert not answered(
        lambda: parse_statistics(layout, 3, files | {name: files[name].replace(number, count.encode())})
    )


@pytest.mark.parametrize("value", [86, 2**31 - 1])
def test_documents_that_the_table_does_not_have(original: Path, tmp_path: Path, value: int) -> None:
    folder = shutil.copytree(original, tmp_path / "store")
    name = "activations.zarr/document/c/1/0"
    replaced(folder, name, np.int32(value).tobytes() + (folder / name).read_bytes()[4:])
    opened = store.open(folder)
    with pytest.raises(Problem, match="does not have"):
        opened.rows("train")
    mean = "activations.zarr/layers/3/statistics/mean/c/0"
    rewrite(folder / mean, lambda data: bytes(len(data)))
    assert any("does not have" in reason for reason in store.repair(folder).reasons)


@pytest.mark.parametrize("place", [-1, -100, -16 * 16 - 4])
def test_a_shard_with_another_index(original: Path, tmp_path: Path, place: int) -> None:
    """Sealed, so that only the index itself gives it away."""
    folder = shutil.copytree(original, tmp_path / "store")
    name = "activations.zarr/layers/11/resid_post/c/1/0/0"
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    replaced(folder, name, bytes(content))
    opened: ActivationStore = store.open(folder)
    with pytest.raises(Problem, match="index"):
        opened.window(11, 20)
