"""What a manifest says of files: size and sha256 of each, and which lie on disk in another form."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from store.limits import whole_number

_SHA256 = re.compile("[0-9a-f]{64}")


class FileRecord(NamedTuple):
    """What the manifest knows of one file."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""

    @classmethod
    def of(cls, *parts: bytes | memoryview) -> FileRecord:
        """Record of a file that holds `parts` back to back."""
        sha256 = hashlib.sha256()
        for part in parts:
            sha256.update(part)
        return cls(sum(len(part) for part in parts), sha256.hexdigest())

    @classmethod
    def parse(cls, value: Any) -> FileRecord:
        """A record from a manifest that may hold anything: ValueError or TypeError for what is no record."""
        record = cls(**value)
        if not _SHA256.fullmatch(record.sha256):
            raise ValueError(f"{record.sha256!r:.80} where a sha256 belongs")
        return cls(whole_number(record.size), record.sha256)


@dataclass(frozen=True)
class Encoding:
    """Which files of a store are on disk in another form than the canonical one, and in which."""

    codec: str
    """Name of the form; `zarr.json` of each array says how it is decoded."""
    files: dict[str, FileRecord]
    """Path below the store -> size and sha256 of what is on disk."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> Encoding | None:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        if document is None:
            return None
        if set(document) != {"codec", "files"} or not isinstance(document["codec"], str):
            raise ValueError("an encoding has a codec and files")
        return cls(document["codec"], parse_records(document["files"]))

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"codec": self.codec, "files": records_json(self.files)}


def parse_records(document: Mapping[str, Any]) -> dict[str, FileRecord]:
    """The inverse of `records_json`. Raises TypeError or ValueError for anything else."""
    return {name: FileRecord.parse(record) for name, record in document.items()}


def records_json(records: Mapping[str, FileRecord]) -> dict[str, Any]:
    """Path -> size and sha256, as the manifest has them."""
    return {path: record._asdict() for path, record in records.items()}
