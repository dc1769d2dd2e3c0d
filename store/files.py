"""Files that are whole or absent: every write goes to a temporary file, is synced, then renamed.

Nothing is ever opened for writing in place, because a finished output may be a hard link into
DVC's cache: writing through it would corrupt the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.problem import Problem

PARTIAL = ".partial"
"""Suffix of a file that is being written. A crash may leave one; the next writer removes it."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the form whose sha256 is a fingerprint."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def readable_json(value: Any) -> bytes:
    """JSON for files that people open: sorted keys, two spaces, final newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value in canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_disk(folder: Path, n_bytes: int) -> None:
    """Raise a Problem where files of `n_bytes` would fill the disk of `folder`, with 1 % and 64 MiB to spare."""
    parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free, needed = shutil.disk_usage(parent).free, int(n_bytes * 1.01) + (64 << 20)
    if free < needed:
        raise Problem(
            "Too little disk for this store.",
            where=folder.absolute(),
            expected=f"{needed:,} bytes free",
            found=f"{free:,} bytes free",
            do="free some space, choose a folder on another disk, or a store of fewer tokens",
        )


def temporary_name(path: Path) -> Path:
    """A name beside `path` to write under, which no other writer of `path` has, in whatever process."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, an error of the file system is a Problem that names `path`: a full disk is not the program's mistake."""
    try:
        yield
    except OSError as error:
        raise Problem(
            "A file could not be written.",
            where=path.absolute(),
            found=error.strerror or error,
            do="make room or mend the disk, then run the same command again: it goes on where it stopped",
        ) from error


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `path` so that a crash leaves the old file or the new one, never a mixture.

    Two processes may write one path at the same time: either file is whole, and the later one stays. Raises Problem
    when the disk is full or refuses.
    """
    temporary = temporary_name(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a readable JSON file atomically."""
    write_atomically(path, readable_json(value))


def remove(path: Path) -> None:
    """Delete a file, a link (never what it leads to) or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Delete what an interrupted `write_atomically` left behind anywhere below `folder`."""
    for path in sorted(folder.rglob(f"*{PARTIAL}")):
        remove(path)


def files_below(folder: Path) -> Iterable[Path]:
    """Every regular file or link below `folder`, sorted, links not followed."""
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            yield Path(root) / name


def nested(one: Path, other: Path) -> bool:
    """Whether two folders are one, or one of them lies in the other."""
    here, there = one.resolve(), other.resolve()
    return here.is_relative_to(there) or there.is_relative_to(here)


def last_folders(path: Path) -> str:
    """A name for what lies elsewhere: the last three folders of its absolute path, as one."""
    return "-".join(path.parts[-3:]).strip("/")
