"""A compressed store is a valid Zarr store, reads as the raw one does, and is only decoded after it was checked."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

import store
from store import ActivationStore, Selection
from store.compression import CODEC, compressed, compressor
from store.encoding import EncodedArray, EncodedRows
from store.manifest import NAME, Manifest
from store.problem import Problem
from store.records import Encoding, FileRecord
from store.same_folder import SameFolder
from store.shards import ShardedArray
from tests.store.make import LAYERS, N_ROWS, content, make, write
from tests.store.make import activations as stored
from tests.store.test_manifest import edit
from tests.store.test_verify import flip

SHARD = "activations.zarr/layers/11/resid_post/c/1/0/0"
ARRAY = ShardedArray("a", (11, 8, 6), 4, "uint16", ("sequence", "position", "feature"), attributes={"kind": "test"})
VALUES = np.random.default_rng(3).normal(0, 1, (11, 8, 6)).astype(np.float32).view("<u4") >> 16
VALUES = VALUES.astype("<u2")


def compress(folder: Path) -> ActivationStore:
    """Bring a store into its compressed form, in place."""
    manifest = Manifest.load(folder)
    records = {}
    for array in manifest.layout.activations.values():
        files = {array.metadata_path: array.metadata(compressor(array))}
        files |= {name: compressed(array, array.map(folder, shard)) for shard, name in enumerate(array.files())}
        for name, data in files.items():
            (folder / name).unlink()
            (folder / name).write_bytes(data)
            records[name] = FileRecord.of(data)
    replace(manifest, encoding=Encoding(CODEC, records)).save(folder)
    return store.open(folder)


def test_a_subset_of_a_compressed_store_is_that_of_the_raw_one(activations: ActivationStore, tmp_path: Path) -> None:
    for selection in (Selection(layers=(3,)), Selection(tokens=20 * activations.context)):
        shutil.rmtree(tmp_path / "part", ignore_errors=True)
        raw = store.subset(activations, tmp_path / "part", selection)
        shutil.copytree(activations.path, tmp_path / "small")
        assert store.subset(compress(tmp_path / "small"), tmp_path / "of_small", selection) == raw
        assert content(tmp_path / "of_small") == content(tmp_path / "part")
        for name in ("small", "of_small"):
            shutil.rmtree(tmp_path / name)


@pytest.fixture
def encoded(activations: ActivationStore) -> ActivationStore:
    return compress(activations.path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_stock_readers_open_a_compressed_store(tmp_path: Path, dtype: str) -> None:
    root = make(tmp_path / "store", dtype).root
    assert compress(tmp_path / "store").root == root
    group = zarr.open_group(tmp_path / "store/activations.zarr", mode="r")
    for layer in LAYERS:
        expected = np.stack([stored(layer, row, dtype) for row in range(N_ROWS)])
        assert np.array_equal(group[f"layers/{layer}/resid_post"][:], expected)
        path = str(tmp_path / f"store/activations.zarr/layers/{layer}/resid_post")
        opened = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, read=True)
        assert np.array_equal(opened.result().read().result(), expected)


def test_the_compressed_bytes_are_those_of_zarr_python(tmp_path: Path) -> None:
    codec = BloscCodec(typesize=2, cname="zstd", clevel=1, shuffle="shuffle", blocksize=2**18)
    zarr_array(tmp_path, ShardingCodec(chunk_shape=(1, 8, 6), codecs=[BytesCodec(), codec]))
    assert (tmp_path / "a/zarr.json").read_bytes() == ARRAY.metadata(compressor(ARRAY))
    for shard in range(ARRAY.n_shards):
        rows = ARRAY.shard_rows(shard)
        expected = (tmp_path / ARRAY.shard_path(shard)).read_bytes()
        assert compressed(ARRAY, VALUES[rows.start : rows.stop]) == expected


def test_a_compressed_store_reads_as_the_raw_one_with_one_notice(tmp_path: Path) -> None:
    raw, other = make(tmp_path / "raw"), make(tmp_path / "other")
    expected = [raw.windows(layer, "train", 4, seed=1).batch(3) for layer in LAYERS]
    with pytest.warns(UserWarning, match="not in its raw form") as notices:
        encoded = compress(other.path)
        for layer, batch in zip(LAYERS, expected, strict=True):
            found = encoded.windows(layer, "train", 4, seed=1).batch(3)
            assert found.x.equal(batch.x) and found.tokens.equal(batch.tokens)
            assert encoded.window(layer, 42).equal(raw.window(layer, 42))
    assert len(notices) == 1
    assert np.array_equal(encoded.statistics(3).mean, raw.statistics(3).mean)
    assert encoded.root == raw.root


def test_a_compressed_store_verifies_and_its_damage_is_found(encoded: ActivationStore) -> None:
    encoded.check()
    result = store.verify(encoded.path)
    assert result.problems == [] and result.root == encoded.root
    assert result.n_bytes == sum(len(data) for name, data in content(encoded.path).items() if name != NAME)
    flip(encoded.path / SHARD)
    assert [bad.path for bad in store.verify(encoded.path).problems] == [SHARD]
    with pytest.raises(Problem, match="resid_post/c/1/0/0"):
        encoded.check()


def test_a_compressed_shard_of_other_rows_is_found_although_its_own_digest_is_right(encoded: ActivationStore) -> None:
    """Who knows the format can make the encoding fit; the canonical digests, which the root covers, he cannot."""
    array = encoded.manifest.layout.activations[11]
    shards = [array.shard_path(shard) for shard in (0, 1)]
    data = [(encoded.path / name).read_bytes() for name in shards]
    for name, other in zip(shards, reversed(data), strict=True):
        (encoded.path / name).unlink()
        (encoded.path / name).write_bytes(other)
        record = FileRecord.of(other)._asdict()
        edit(encoded.path, lambda document, n=name, r=record: document["encoding"]["files"].update({n: r}))
    assert store.open(encoded.path).root == encoded.root
    assert [bad.path for bad in store.verify(encoded.path).problems] == shards


def test_writing_goes_on_from_a_compressed_store(encoded: ActivationStore) -> None:
    before = content(encoded.path)
    assert write(encoded.path) == encoded.root and content(encoded.path) == before
    flip(encoded.path / SHARD)
    assert write(encoded.path) == encoded.root
    assert store.open(encoded.path).manifest.encoding is None and store.verify(encoded.path).problems == []


@pytest.mark.parametrize(
    "change",
    [
        lambda encoding: encoding["files"].pop(SHARD),
        lambda encoding: encoding["files"].update({"README.md": encoding["files"][SHARD]}),
        lambda encoding: encoding["files"].update({"../outside": encoding["files"][SHARD]}),
        lambda encoding: encoding["files"].clear(),
        lambda encoding: encoding.update(codec=1),
        lambda encoding: encoding.update(more=1),
        lambda encoding: encoding.pop("files"),
        lambda encoding: encoding["files"][SHARD].pop("size"),
    ],
)
def test_an_encoding_that_is_not_of_whole_arrays_is_refused(
    encoded: ActivationStore, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(encoded.path, lambda document: change(document["encoding"]))
    with pytest.raises(Problem, match="The manifest of this store is damaged"):
        store.open(encoded.path)


def zarr_array(folder: Path, *codecs: object) -> EncodedArray:
    """What another Zarr writer makes of the rows, and how it is read here."""
    array = zarr.create_array(
        folder / "a",
        shape=ARRAY.shape,
        chunks=(ARRAY.rows_per_shard, *ARRAY.shape[1:]),
        dtype=ARRAY.dtype,
        fill_value=0,
        attributes=dict(ARRAY.attributes),
        dimension_names=ARRAY.dimensions,
        **as_arguments(codecs),
    )
    array[:] = VALUES
    return EncodedArray.parse(ARRAY, (folder / "a/zarr.json").read_bytes(), "here")


def as_arguments(codecs: tuple[object, ...]) -> dict[str, Any]:
    serializer, *compressors = codecs
    return {"serializer": serializer, "compressors": compressors, "filters": None}


OTHER_WRITERS: list[tuple[object, ...]] = [
    (BytesCodec(), ZstdCodec(level=3)),
    (BytesCodec(), BloscCodec(typesize=2, cname="lz4", shuffle="bitshuffle"), Crc32cCodec()),
    (BytesCodec(),),
    (ShardingCodec(chunk_shape=(2, 4, 3), codecs=[BytesCodec()]),),
    (ShardingCodec(chunk_shape=(2, 4, 6), codecs=[BytesCodec(), ZstdCodec(), Crc32cCodec()], index_location="start"),),
]


@pytest.mark.parametrize("codecs", OTHER_WRITERS)
def test_what_other_zarr_writers_compress_or_cut_is_read(tmp_path: Path, codecs: tuple[object, ...]) -> None:
    encoded = zarr_array(tmp_path, *codecs)
    rows = EncodedRows(SameFolder(tmp_path), encoded)
    out = np.empty((3, 8, 6), "<u2")
    rows.take(np.array([10, 0, 5]), out)
    assert np.array_equal(out, VALUES[[10, 0, 5]]) and np.array_equal(rows.row(7), VALUES[7])
    for shard in range(ARRAY.n_shards):
        held = ARRAY.shard_rows(shard)
        assert np.array_equal(rows.shard(shard), VALUES[held.start : held.stop])
        data = (tmp_path / ARRAY.shard_path(shard)).read_bytes()
        assert np.array_equal(encoded.decode(shard, data, "here"), VALUES[held.start : held.stop])


def test_codecs_that_do_not_say_what_they_unpack_to_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"found: codecs gzip"):
        zarr_array(tmp_path, BytesCodec(), GzipCodec())


METADATA = json.loads(ARRAY.metadata(compressor(ARRAY)))
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
junk = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_metadata_is_the_expected_one_or_refused(data: st.DataObject) -> None:
    document = json.loads(json.dumps(METADATA))
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(junk | st.just(METADATA["codecs"]))
    try:
        parsed = EncodedArray.parse(ARRAY, json.dumps(document).encode(), "here")
    except Problem:
        return
    assert parsed.array is ARRAY and parsed.compressor in (None, "blosc", "zstd")
    assert np.array(parsed.chunk).prod() <= 4 * 8 * 6
    if parsed.compressor == "blosc" and parsed.chunk == (1, 8, 6):
        shard = compressed(ARRAY, VALUES[:4])
        assert parsed.checked or np.array_equal(parsed.decode(0, shard, "here"), VALUES[:4])


@given(st.binary() | st.integers(0, 5000).map(lambda depth: b"[" * depth))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_metadata_are_refused(content: bytes) -> None:
    with pytest.raises(Problem):
        EncodedArray.parse(ARRAY, content, "here")


@pytest.mark.parametrize("codecs", [(), *OTHER_WRITERS])
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_shard_is_refused_or_has_the_shape_of_its_rows(
    tmp_path_factory: pytest.TempPathFactory, codecs: tuple[object, ...], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("array")
    if codecs:
        encoded = zarr_array(folder, *codecs)
        shard = bytearray((folder / ARRAY.shard_path(0)).read_bytes())
    else:
        encoded = EncodedArray.parse(ARRAY, ARRAY.metadata(compressor(ARRAY)), "here")
        shard = bytearray(compressed(ARRAY, VALUES[:4]))
    for _ in range(data.draw(st.integers(1, 4))):
        shard[data.draw(st.integers(0, len(shard) - 1))] = data.draw(st.integers(0, 255))
    del shard[data.draw(st.integers(0, 2 * len(shard))) :]
    if encoded.index == "end" and len(shard) > 4 and data.draw(st.booleans()):
        reseal(encoded, shard)
    with suppress(Problem):
        assert encoded.decode(0, bytes(shard), "here").shape == (4, 8, 6)


def reseal(encoded: EncodedArray, shard: bytearray) -> None:
    """Make the checksum of an index at the end fit again."""
    size = 16 * 4 * 8 * 6 // int(np.prod(encoded.chunk))
    shard[-4:] = google_crc32c.value(bytes(shard[-4 - size : -4])).to_bytes(4, "little")


def test_a_shard_that_unpacks_to_more_than_its_rows_is_refused_unread() -> None:
    """A decompression bomb: headers that promise gigabytes."""
    encoded = EncodedArray.parse(ARRAY, ARRAY.metadata(compressor(ARRAY)), "here")
    shard = bytearray(compressed(ARRAY, VALUES[:4]))
    struct.pack_into("<I", shard, 4, 2**31 - 1)
    with pytest.raises(Problem, match="unpacks to 2147483647 bytes instead of 96"):
        encoded.decode(0, bytes(shard), "here")
    zstd = replace(encoded, compressor="zstd", index=None, chunk=(4, 8, 6))
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + (2**40).to_bytes(8, "little")
    with pytest.raises(Problem, match=f"unpacks to {2**40} bytes instead of 384"):
        zstd.decode(0, frame, "here")
    with pytest.raises(Problem, match="does not say its size"):
        zstd.decode(0, b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00", "here")


def test_a_shard_whose_chunks_reach_out_of_it_is_refused() -> None:
    encoded = EncodedArray.parse(ARRAY, ARRAY.metadata(compressor(ARRAY)), "here")
    shard = bytearray(compressed(ARRAY, VALUES[:4]))
    for pair in [(0, 2**40), (2**63, 16), (2**64 - 1, 96), (len(shard), 1)]:
        struct.pack_into("<QQ", shard, len(shard) - 4 - 64, *pair)
        reseal(encoded, shard)
        with pytest.raises(Problem, match="outside the file"):
            encoded.check(bytes(shard), "here")
