"""Comparing the files of a store with its manifest."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import dask

from store.encoding import EncodedArray
from store.engine import compute
from store.files import file_sha256
from store.manifest import NAME, Manifest
from store.problem import Problem
from store.progress import SILENT, Progress
from store.records import FileRecord
from store.shards import ShardedArray


@dataclass(frozen=True, order=True)
class BadFile:
    """A file that is not what the manifest says."""

    path: str
    """Relative to the store."""
    expected: str
    """What the manifest says."""
    found: str
    """What is there."""


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`."""

    problems: list[BadFile]
    """Every file that is damaged, missing or foreign; empty when the store is sound."""
    n_files: int
    """Files that the manifest names."""
    n_bytes: int
    """Their size together."""
    n_read: int
    """Bytes of those whose sha256 was compared: all of them, or a sample."""
    root: str | None
    """The root digest; None while the store is partial."""


def verify(path: str | Path, progress: Progress = SILENT, *, sample: float = 1.0, seed: int = 0) -> Verification:
    """Hash every file of the store `path` and look for files that do not belong to it.

    With a `sample` below 1 about that share of the bytes is hashed, in whole files that `seed` draws; names and
    sizes of all files are compared nevertheless. Damage is reported in the result. Raises Problem when there is
    no manifest that can be read.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    read = drawn(manifest.stored, sample, seed)
    problems = {*wrong_sizes(folder, manifest.stored), *foreign_entries(folder, manifest.files)}
    unread = {file.path for file in problems}
    problems.update(wrong_store(folder, manifest, progress, read))
    if manifest.root is None:
        problems.add(BadFile(NAME, "status complete", "status partial: a harvest has not finished"))
    n_bytes = sum(record.size for record in manifest.stored.values())
    n_read = sum(record.size for name, record in read.items() if name not in unread)
    return Verification(sorted(problems), len(manifest.files), n_bytes, n_read, manifest.root)


def drawn(files: Mapping[str, FileRecord], share: float, seed: int) -> dict[str, FileRecord]:
    """Files drawn at random until they are `share` of all bytes; every file at 1."""
    names = sorted(files)
    random.Random(seed).shuffle(names)
    left = share * sum(record.size for record in files.values())
    chosen = {}
    for name in names:
        if left <= 0 and share < 1:
            break
        chosen[name] = files[name]
        left -= files[name].size
    return chosen


def wrong_sizes(folder: Path, files: Mapping[str, FileRecord]) -> list[BadFile]:
    """The files of `files` that are missing, no regular file, reached through a link, or of another size."""
    linked = _linked_folders(folder, files)
    checked = (_wrong_size(folder, name, record, linked) for name, record in sorted(files.items()))
    return [bad for bad in checked if bad]


def wrong_contents(folder: Path, files: Mapping[str, FileRecord], progress: Progress = SILENT) -> list[BadFile]:
    """As `wrong_sizes`, and the files whose sha256 differs. Hashes on all cores."""
    bad = wrong_sizes(folder, files)
    named = {file.path for file in bad}
    whole = [name for name in sorted(files) if name not in named]
    progress.start("verify", sum(files[name].size for name in whole), "B")
    place = folder.absolute()  # a worker may have another working directory
    tasks = [dask.delayed(_sha256)(place / name) for name in whole]
    for name, found in zip(whole, compute(tasks, lambda i: progress.advance(files[whole[i]].size)), strict=True):
        expected = f"sha256 {files[name].sha256}"
        if found != expected:
            bad.append(BadFile(name, expected, found))
    return sorted(bad)


def wrong_store(
    folder: Path, manifest: Manifest, progress: Progress = SILENT, files: Mapping[str, FileRecord] | None = None
) -> list[BadFile]:
    """As `wrong_contents` of a store, or of its `files`, and the shards that do not decode as the manifest says."""
    files = manifest.stored if files is None else files
    bad = wrong_contents(folder, files, progress)
    skip = {file.path for file in bad} | (set(manifest.files) - set(files))
    for array in manifest.encoded_arrays():
        if not skip.issuperset(array.files()):
            bad += _wrong_decodings(folder, manifest, array, skip)
    return sorted(set(bad))


def _wrong_decodings(folder: Path, manifest: Manifest, array: ShardedArray, skip: set[str]) -> list[BadFile]:
    """The files of an encoded array that do not decode to what the manifest says, but for those named in `skip`."""
    name = array.metadata_path
    if wrong := wrong_contents(folder, {name: manifest.stored[name]}):
        return wrong
    try:
        encoded = EncodedArray.parse(array, (folder / name).read_bytes(), folder / name)
    except Problem as problem:
        return [BadFile(name, str(problem.expected), str(problem.found))]
    bad = []
    for shard, name in enumerate(array.files()):
        expected = f"rows of sha256 {manifest.files[name].sha256}"
        try:
            rows = None if name in skip else encoded.decode(shard, (folder / name).read_bytes(), folder / name)
        except Problem as problem:
            bad.append(BadFile(name, expected, str(problem.found)))
        else:
            if rows is not None and (found := FileRecord.of(*array.encode(rows))) != manifest.files[name]:
                bad.append(BadFile(name, expected, f"rows of sha256 {found.sha256}"))
    return bad


def foreign_entries(folder: Path, files: Iterable[str]) -> list[BadFile]:
    """Files and links below `folder` that neither are the manifest nor in `files`."""
    known = {NAME, *files}
    foreign = []
    for root, folders, names in os.walk(folder, followlinks=False):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(root) / name
            relative = path.relative_to(folder).as_posix()
            if relative not in known:
                foreign.append(BadFile(relative, "no such file", _kind(path)))
    return sorted(foreign)


def refuse(folder: Path, bad: list[BadFile]) -> None:
    """Raise a Problem that lists every file of `bad`; do nothing when there is none."""
    if not bad:
        return
    place = folder.absolute()
    count = f"{len(bad)} files of this store are" if len(bad) > 1 else "A file of this store is"
    raise Problem(
        f"{count} damaged or missing.",
        where=place,
        found=listing(bad, f"{place}/"),
        do="harvest again with the same parameters (what verifies is kept), or get the store again",
    )


def listing(bad: Iterable[BadFile], place: str = "") -> str:
    """Bad files for an error message, a line each, their paths below `place`."""
    return "".join(f"\n    {place}{file.path}: expected {file.expected}, found {file.found}" for file in bad)


def _linked_folders(folder: Path, files: Iterable[str]) -> set[str]:
    """Folders below the store that are links: what lies behind them is not the store's."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    return {name for name in folders - {"."} if (folder / name).is_symlink()}


def _wrong_size(folder: Path, name: str, record: FileRecord, linked: set[str]) -> BadFile | None:
    path = folder / name
    expected = f"{record.size} bytes"
    if linked and any(str(parent) in linked for parent in PurePosixPath(name).parents):
        return BadFile(name, expected, "a path through a symbolic link")
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return BadFile(name, expected, "no such file")
    except OSError as error:
        return BadFile(name, expected, f"unreadable: {error.strerror}")
    kind = _kind(path)
    if kind != "a file":
        return BadFile(name, expected, kind)
    return None if status.st_size == record.size else BadFile(name, expected, f"{status.st_size} bytes")


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "a symbolic link"
    if path.is_dir():
        return "a folder"
    return "a file" if path.is_file() else "no regular file"


def _sha256(path: Path) -> str:
    try:
        return f"sha256 {file_sha256(path)}"
    except OSError as error:
        return f"an unreadable file: {error.strerror}"
