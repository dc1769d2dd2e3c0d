"""`manifest.json`: what a store holds, from what it was made, and the sha256 of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from store.files import canonical_json, digest, write_json
from store.layout import STORAGE, Layout, hook_name
from store.limits import (
    LAYERS,
    SHARD_BYTES,
    check_geometry,
    parse_manifest,
    read_manifest,
    shallow_object,
    whole_number,
)
from store.problem import Problem
from store.records import Encoding, FileRecord, parse_records, records_json
from store.shards import ShardedArray

NAME = "manifest.json"
FORMAT = "tsae-activation-store"
VERSION = 1


@dataclass(frozen=True)
class StoreSpec:
    """What a writer has to know before the first byte."""

    request: Mapping[str, Any]
    """Everything that decides the content, as JSON; its digest is the store's fingerprint."""
    context: int
    """Tokens in a sequence."""
    dtype: str
    """Logical type of the activations: bfloat16, float16 or float32."""
    layers: Mapping[int, int]
    """Layer -> width of its residual stream."""

    def __post_init__(self) -> None:
        if self.dtype not in STORAGE:
            raise Problem("Unknown type of activations.", expected=", ".join(STORAGE), found=self.dtype)
        if self.context < 1 or not self.layers or min(self.layers) < 0 or min(self.layers.values()) < 1:
            raise Problem(
                "A store needs a context and at least one layer.",
                expected="context >= 1, layers >= 0 of width >= 1",
                found=f"context {self.context}, layers {dict(self.layers)}",
            )

    @property
    def fingerprint(self) -> str:
        """sha256 of the request: equal fingerprints mean equal content."""
        return digest(as_json(self.request))

    @property
    def rows_per_shard(self) -> int:
        """The largest multiple of 8 sequences whose widest layer fits `SHARD_BYTES`; 8 at least."""
        itemsize = np.dtype(STORAGE[self.dtype]).itemsize
        rows = SHARD_BYTES // (self.context * max(self.layers.values()) * itemsize)
        return max(8, rows // 8 * 8)


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    request: dict[str, Any]
    """Everything that decided the content."""
    plan: dict[str, Any]
    """How the first run executes it, which every resume follows; empty until decided."""
    context: int
    """Tokens in a sequence."""
    n_sequences: int | None
    """Packed sequences; None until the text is packed."""
    rows_per_shard: int
    """Sequences in every shard but the last."""
    dtype: str
    """Logical type of the activations."""
    layers: dict[int, int]
    """Layer -> width of its residual stream."""
    files: dict[str, FileRecord]
    """Path below the store, with forward slashes -> size and sha256; every file but the manifest."""
    root: str | None = None
    """Digest of fingerprint and files; None while the store is partial."""
    encoding: Encoding | None = None
    """The files that are on disk in another form than `files` says; None where there is none."""

    @classmethod
    def of(cls, spec: StoreSpec, plan: Mapping[str, Any] | None = None) -> Manifest:
        """The manifest of a store of which nothing is written yet."""
        return cls(
            request=as_json(spec.request),
            plan=as_json(plan or {}),
            context=spec.context,
            n_sequences=None,
            rows_per_shard=spec.rows_per_shard,
            dtype=spec.dtype,
            layers=dict(sorted(spec.layers.items())),
            files={},
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of the request."""
        return digest(self.request)

    @property
    def status(self) -> str:
        """Whether everything is written and sealed ("complete") or not yet ("partial")."""
        return "partial" if self.root is None else "complete"

    @property
    def layout(self) -> Layout:
        """Arrays and files of the store. The sequences must be known."""
        if self.n_sequences is None:
            raise ValueError("the sequences of this store are not written yet")
        return Layout(self.n_sequences, self.context, self.rows_per_shard, self.dtype, self.layers)

    @property
    def stored(self) -> dict[str, FileRecord]:
        """As `files`, but of the bytes that are on disk."""
        return self.files if self.encoding is None else self.files | self.encoding.files

    def encoded_arrays(self) -> list[ShardedArray]:
        """The arrays that are on disk in another form."""
        if self.encoding is None:
            return []
        return [array for array in self.layout.activations.values() if array.metadata_path in self.encoding.files]

    def computed_root(self) -> str:
        """sha256 of the canonical JSON of fingerprint and files."""
        return digest({"fingerprint": self.fingerprint, "files": records_json(self.files)})

    def completed(self) -> Manifest:
        """The same manifest with its root digest, which makes the store complete."""
        return replace(self, root=self.computed_root())

    def to_json(self) -> dict[str, Any]:
        """The JSON document, with the checksum of everything else in it."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "status": self.status,
            "fingerprint": self.fingerprint,
            "request": self.request,
            "plan": self.plan,
            "context": self.context,
            "n_sequences": self.n_sequences,
            "rows_per_shard": self.rows_per_shard,
            "dtype": self.dtype,
            "layers": {str(layer): {"hook": hook_name(layer), "d": d} for layer, d in self.layers.items()},
            "digest_algorithm": "sha256",
            "files": records_json(self.files),
            "root": self.root,
            **({"encoding": self.encoding.to_json()} if self.encoding else {}),
        }
        return document | {"checksum": digest(document)}

    def save(self, folder: Path) -> None:
        """Replace the manifest of the store `folder` atomically."""
        write_json(folder / NAME, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read and check the manifest of the store `folder`.

        Raises Problem when there is none, when it is damaged, or when this version cannot read it.
        """
        path = folder / NAME
        try:
            content = read_manifest(path)
        except OSError as error:
            raise Problem(
                "This folder is not an activation store.",
                where=folder.absolute(),
                expected=f"a file {NAME}",
                found="no such folder" if not folder.exists() else error.strerror,
                do="check the path, or make the store with `pipeline harvest`",
            ) from None
        except ValueError as error:
            raise _damaged(path.absolute(), str(error)) from None
        return cls.parse(content, path.absolute())

    @classmethod
    def parse(cls, content: bytes, where: object) -> Manifest:
        """Check the manifest in `content`, which lies at `where`.

        Raises Problem when it is damaged, or when this version cannot read it.
        """
        try:
            document = parse_manifest(content)
        except ValueError as error:
            raise _damaged(where, str(error)) from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise _damaged(where, "not a manifest of an activation store")
        if document.get("version") != VERSION:
            raise Problem(
                "This store was written in another version of the format.",
                where=where,
                expected=f"version {VERSION}",
                found=f"version {document.get('version')}",
                do="read it with the release of tsae-pipeline that wrote it, or harvest it again",
            )
        return cls._parse(where, document)

    @classmethod
    def _parse(cls, where: object, document: dict[str, Any]) -> Manifest:
        try:
            if document["dtype"] not in STORAGE or not 0 < len(document["layers"]) <= LAYERS:
                raise ValueError("impossible geometry")
            count = document["n_sequences"]
            layers = {whole_number(int(layer)): facts["d"] for layer, facts in document["layers"].items()}
            manifest = cls(
                request=shallow_object(document["request"]),
                plan=shallow_object(document["plan"]),
                context=whole_number(document["context"], 1),
                n_sequences=None if count is None else whole_number(count, 1),
                rows_per_shard=whole_number(document["rows_per_shard"], 1),
                dtype=document["dtype"],
                layers={layer: whole_number(d, 1) for layer, d in sorted(layers.items())},
                files=parse_records(document["files"]),
                root=document["root"],
                encoding=Encoding.from_json(document.get("encoding")),
            )
            if canonical_json(manifest.to_json()) != canonical_json(document):  # so nothing is left unread
                raise ValueError("content that differs from its checksum")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _damaged(where, f"{type(error).__name__}: {error}") from None
        manifest._check_names(where)
        manifest._check_files(where)
        return manifest

    def _check_names(self, where: object) -> None:
        unsafe = [name for name in self.files if not _is_safe(name)]
        if unsafe:
            raise Problem(
                "The manifest names files outside its store. It is not to be trusted.",
                where=where,
                expected="paths below the store",
                found=", ".join(repr(name) for name in sorted(unsafe)),
                do="do not use this store; get it again from its source",
            )

    def _check_files(self, where: object) -> None:
        """The files are those that the geometry asks for, all of them and sealed where it is complete."""
        if self.n_sequences is None:
            if self.files or self.root is not None or self.encoding is not None:
                raise _damaged(where, "files of a store whose text is not packed")
            return
        layout = self.layout
        try:
            check_geometry(layout, len(self.files), self.root is not None)
        except ValueError as error:
            raise _damaged(where, f"an impossible geometry: {error}") from None
        differing = layout.files() ^ set(self.files) if self.root else set(self.files) - layout.files()
        if differing:
            raise _damaged(where, f"missing or foreign entries: {', '.join(sorted(differing))}")
        fixed = {name: FileRecord.of(content) for name, content in layout.metadata().items()}
        sizes = layout.sizes() | {name: record.size for name, record in fixed.items()}
        for name, record in self.files.items():
            if record.size != sizes.get(name, record.size) or record != fixed.get(name, record):
                raise _damaged(where, f"a geometry that differs from {name}")
        self._check_encoding(where)
        if self.root is not None and self.root != self.computed_root():
            raise _damaged(where, "a root digest that differs from its files")

    def _check_encoding(self, where: object) -> None:
        """What is encoded is whole arrays of activations of a complete store."""
        if self.encoding is None:
            return
        files = {name for array in self.encoded_arrays() for name in array.all_files()} if self.root else set()
        if not files or set(self.encoding.files) != files:
            raise _damaged(where, "an encoding of other files than those of whole arrays of activations")


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON round trip leaves, so that a resume compares like with like."""
    return json.loads(json.dumps(dict(value), allow_nan=False))


def _is_safe(name: str) -> bool:
    parts = PurePosixPath(name).parts
    normal = bool(parts) and "/".join(parts) == name
    return normal and name != NAME and ".." not in parts and "\\" not in name and name.isprintable()


def _damaged(where: object, found: str) -> Problem:
    return Problem(
        "The manifest of this store is damaged.",
        where=where,
        found=found,
        do="get the store again from its source, or delete its folder and harvest it again",
    )
