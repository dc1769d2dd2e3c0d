"""Every kind of damage that a store is tested with, and the table of what finds it (`pytest -s test_damage.py`)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from store.files import digest
from store.manifest import NAME
from store.records import FileRecord

SHARD = "activations.zarr/layers/11/resid_post/c/1/0/0"
OTHER = "activations.zarr/layers/11/resid_post/c/0/0/0"
TOKENS = "activations.zarr/tokens/c/0/0"


@dataclass(frozen=True)
class Damage:
    """One kind of damage."""

    kind: str
    """For the table."""
    harm: Callable[[Path, Path], object]
    """Does it to a store; the second folder is another store of the same geometry."""
    found_by: Literal["opening", "verify", "--expect", "nothing"] = "opening"
    """The least that finds it. Opening does not where no manifest, size or kind of a named file changed."""

    def __str__(self) -> str:
        return self.kind.replace(" ", "-")


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file as another file of the same name: a hard link to it elsewhere stays."""
    content = change(path.read_bytes())
    path.unlink()
    path.write_bytes(content)


def flip(path: Path) -> None:
    rewrite(path, lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


def replace_by(path: Path, other: Path) -> None:
    content = other.read_bytes()
    rewrite(path, lambda _: content)


def exchange(first: Path, second: Path) -> None:
    shutil.move(first, first.with_name("between"))
    shutil.move(second, first)
    shutil.move(first.with_name("between"), second)


def link(path: Path) -> None:
    """Move a file or folder out of the store and leave a symbolic link to it."""
    outside = path.parents[len(path.parts) - path.parts.index("store") - 1] / "outside" / "moved"
    shutil.move(path, outside)
    path.symlink_to(outside)


def hard_link(path: Path) -> None:
    outside = path.parents[len(path.parts) - path.parts.index("store") - 1] / "outside" / "linked"
    os.link(path, outside)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool) -> None:
    """Change a manifest, and if `sealed` make its digests fit again, as someone who knows the format would."""
    document = json.loads((folder / NAME).read_text())
    change(document)
    if sealed:
        document["root"] = digest({"fingerprint": digest(document["request"]), "files": document["files"]})
        document["fingerprint"] = digest(document["request"])
        document.pop("checksum")
        document["checksum"] = digest(document)
    (folder / NAME).unlink()
    (folder / NAME).write_text(json.dumps(document))


def forge(folder: Path, other: Path) -> None:
    """Other activations, and a manifest that vouches for them."""
    replace_by(folder / SHARD, other / SHARD)
    record = FileRecord.of((folder / SHARD).read_bytes())._asdict()
    edit(folder, lambda document: document["files"].update({SHARD: record}), sealed=True)


def rename_record(new: str) -> Callable[[Path, Path], None]:
    """A manifest that calls a shard by another name."""

    def harm(folder: Path, _: Path) -> None:
        edit(folder, lambda document: document["files"].update({new: document["files"].pop(SHARD)}), sealed=True)

    return harm


def write(path: Path, content: bytes = b"mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


DAMAGE = [
    Damage("bit flipped in a shard", lambda s, o: flip(s / SHARD), found_by="verify"),
    Damage("bit flipped in tokens", lambda s, o: flip(s / TOKENS), found_by="verify"),
    Damage("bit flipped in documents.parquet", lambda s, o: flip(s / "documents.parquet"), found_by="verify"),
    Damage("bit flipped in the card", lambda s, o: flip(s / "README.md"), found_by="verify"),
    Damage("bit flipped in the manifest", lambda s, o: flip(s / NAME)),
    Damage("shard truncated", lambda s, o: rewrite(s / SHARD, lambda data: data[:-1])),
    Damage("shard extended", lambda s, o: rewrite(s / SHARD, lambda data: data + b"\0")),
    Damage("shard deleted", lambda s, o: (s / SHARD).unlink()),
    Damage("manifest deleted", lambda s, o: (s / NAME).unlink()),
    Damage(
        "shard of another store of the same geometry", lambda s, o: replace_by(s / SHARD, o / SHARD), found_by="verify"
    ),
    Damage(
        "shard replaced by an older valid one",
        lambda s, o: (replace_by(s / SHARD, o / SHARD), os.utime(s / SHARD, (1, 1))),
        found_by="verify",
    ),
    Damage("two shards exchanged", lambda s, o: exchange(s / SHARD, s / OTHER), found_by="verify"),
    Damage("manifest of another store", lambda s, o: replace_by(s / NAME, o / NAME), found_by="verify"),
    Damage("manifest edited", lambda s, o: edit(s, lambda d: d.update(context=4), sealed=False)),
    Damage("manifest edited, digests made to fit", lambda s, o: edit(s, lambda d: d.update(context=4), sealed=True)),
    Damage("consistent forgery", forge, found_by="--expect"),
    Damage("foreign file", lambda s, o: write(s / "notes.txt"), found_by="verify"),
    Damage("foreign shard", lambda s, o: write(s / SHARD.replace("c/1", "c/9")), found_by="verify"),
    Damage("name in other case", lambda s, o: write(s / "Documents.Parquet"), found_by="verify"),
    Damage("file replaced by a symbolic link", lambda s, o: link(s / SHARD)),
    Damage("folder replaced by a symbolic link", lambda s, o: link(s / "activations.zarr/layers/11")),
    Damage("foreign link to a folder", lambda s, o: (s / "more").symlink_to(s.parent / "outside"), found_by="verify"),
    Damage("manifest names a file with ..", rename_record("../outside/precious")),
    Damage("manifest names an absolute path", rename_record("/outside/precious")),
    Damage("manifest names a file in other case", rename_record(SHARD.upper())),
    Damage("hard link to outside (no damage)", lambda s, o: hard_link(s / SHARD), found_by="nothing"),
]
