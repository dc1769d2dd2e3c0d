"""Handing a store on: push it to a URL, pull it from one.

Every file is compared with the manifest before it leaves and after it has arrived, and the manifest goes last: what is
not complete is not a store. Both can be broken off at any moment, and go on when they are called again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from store.compression import CODEC, compressed, compressor
from store.fetch import Fetch, bad_remote, find_manifest, remote_manifest
from store.files import PARTIAL, check_disk, nested, readable_json, remove_partials
from store.lock import Lock
from store.manifest import NAME, Manifest
from store.problem import Problem
from store.progress import SILENT, Progress
from store.reader import open_folder
from store.records import Encoding, FileRecord
from store.remote import Remote
from store.sequences import put
from store.transfer import Moved, move
from store.verify import BadFile, foreign_entries, refuse, wrong_contents, wrong_sizes


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did."""

    root: str
    """Root digest of the store."""
    n_files: int
    """Files of the store, but for the manifest."""
    n_bytes: int
    """Their size in raw form."""
    n_remote_bytes: int
    """Their size at the URL."""
    n_moved: int
    """Bytes that went over the line this time."""
    already_there: bool
    """Whether the store was complete on the other side before."""

    @classmethod
    def of(cls, remote: Manifest, n_moved: int, already_there: bool = False) -> Transfer:
        """That of the store whose manifest at the URL is `remote`."""
        raw, stored = (sum(record.size for record in files.values()) for files in (remote.files, remote.stored))
        return cls(str(remote.root), len(remote.files), raw, stored, n_moved, already_there)


def push(path: str | Path, url: str | Path, compress: bool = False, progress: Progress = SILENT) -> Transfer:
    """Copy the store in the folder `path` to `url`; with `compress`, in the compressed form.

    A store that is compressed already stays so. Where the same store is at `url`, the sizes of its files are
    compared. Raises Problem for a damaged store (with every bad file), where something else is at `url`, and when the
    connection fails for good: then the same call goes on.
    """
    folder = Path(path)
    manifest = open_folder(folder).manifest
    compress = compress and manifest.encoding is None
    remote = Remote(url)
    if remote.read_only:
        raise Problem(
            "A web server only hands stores out.",
            where=remote.url,
            expected="a folder, or a URL that can be written to, as s3:// or gs://",
            do="push to the bucket or folder behind it",
            usage=True,
        )
    _refuse_inside(folder, remote)
    with _alone(remote.folder):
        found = remote.sizes()
        if (there := find_manifest(remote)) is None:
            _refuse_foreign(remote, found, manifest)
        else:
            _refuse_other(remote, there, manifest, compress)
            if all(found.get(name) == record.size for name, record in there.stored.items()):
                return Transfer.of(there, 0, already_there=True)
        if remote.folder is not None:
            remove_partials(remote.folder)
        pushed = _Push(folder, manifest, remote, set(found), compress)
        n_moved, bad = move(
            pushed.file, {name: record.size for name, record in manifest.stored.items()}, "push", progress
        )
        refuse(folder, bad)
        final = pushed.manifest()
        pushed.send(NAME, readable_json(final.to_json()))
        return Transfer.of(final, n_moved)


def pull(url: str | Path, path: str | Path, progress: Progress = SILENT) -> Transfer:
    """Copy the store at `url` into the folder `path`, where it is raw: the bytes of the store that was pushed.

    Goes on with what an earlier call left, if it verifies. Raises Problem where something else is in the folder, before
    anything is written; where files of the remote store are not what its manifest says (with every bad one); and when
    the connection fails for good.
    """
    remote, folder = Remote(url), Path(path)
    _refuse_inside(folder, remote)
    manifest = remote_manifest(remote)
    with _alone(folder):
        if _is_there(folder, manifest):
            return Transfer.of(manifest, 0, already_there=True)
        missing = _missing(folder, manifest, progress)
        check_disk(folder, sum(manifest.files[name].size for name in missing))
        remove_partials(folder)
        fetch = Fetch(remote, manifest, folder)
        n_moved, bad = move(fetch.file, fetch.sizes(missing), "pull", progress)
        if bad:
            raise bad_remote(remote, bad)
        put(folder, NAME, readable_json(fetch.manifest.to_json()))
        return Transfer.of(manifest, n_moved)


def _refuse_inside(folder: Path, remote: Remote) -> None:
    """Refuse a copy in the store itself, or the other way round: each would be a foreign file of the other."""
    if remote.folder is None:
        return
    here, there = folder.resolve(), remote.folder.resolve()
    if here != there and nested(here, there):
        raise Problem(
            "One of the two stores lies in the other.",
            where=there,
            expected="folders beside each other",
            found=here,
            do="choose another folder",
            usage=True,
        )


@contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Hold the lock of a store that is written on this machine."""
    lock = Lock(folder) if folder is not None else None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


class _Push:
    """Sends the files of one store."""

    def __init__(self, folder: Path, manifest: Manifest, remote: Remote, there: set[str], compress: bool) -> None:
        """`there`: files that an earlier push left at the URL."""
        self._folder = folder
        self._manifest = manifest
        self._remote = remote
        self._there = there
        self._arrays = manifest.layout.activations.values() if compress else ()
        self._shards = {name: (array, shard) for array in self._arrays for shard, name in enumerate(array.files())}
        self._metadata = {array.metadata_path: array.metadata(compressor(array)) for array in self._arrays}
        self._encoded: dict[str, FileRecord] = {}
        self._is_sound = True

    def file(self, name: str) -> Moved:
        """Read, compare and send one file; nothing is sent any more once one was bad."""
        expected = self._manifest.stored[name]
        try:
            content = (self._folder / name).read_bytes()
        except OSError as error:
            self._is_sound = False
            return Moved(0, BadFile(name, "a file that can be read", str(error.strerror)))
        if (found := FileRecord.of(content)) != expected:
            self._is_sound = False
            return Moved(0, BadFile(name, f"sha256 {expected.sha256}", f"sha256 {found.sha256}"))
        if not self._is_sound:
            return Moved(0)
        if name in self._shards or name in self._metadata:
            content = self._compressed(name, content)
            self._encoded[name] = FileRecord.of(content)
        return Moved(self.send(name, content))

    def _compressed(self, name: str, content: bytes) -> bytes:
        if name in self._metadata:
            return self._metadata[name]
        array, shard = self._shards[name]
        shape = (len(array.shard_rows(shard)), *array.shape[1:])
        return compressed(array, np.ndarray(shape, array.storage, content))

    def send(self, name: str, content: bytes) -> int:
        """Write a file where it is not there yet, and look whether it arrived; returns the bytes sent."""
        if name in self._there and self._remote.holds(name, content):
            return 0
        self._remote.write(name, content)
        if not self._remote.holds(name, content):
            raise Problem(
                "A file did not arrive as it was sent.",
                where=f"{self._remote.url}/{name}",
                do="run the same command again; if it happens again, the service or the line damages files",
            )
        return len(content)

    def manifest(self) -> Manifest:
        """The manifest of what was sent."""
        encoding = Encoding(CODEC, self._encoded) if self._encoded else self._manifest.encoding
        return replace(self._manifest, encoding=encoding)


def _refuse_other(remote: Remote, there: Manifest, manifest: Manifest, compress: bool) -> None:
    """Raise Problem where the store at the URL is not the one to be pushed, or in another form."""
    wanted, found = CODEC if compress else _form(manifest), _form(there)
    if there.root != manifest.root or wanted != found:
        raise Problem(
            "Another store is at this address, or the same one in another form.",
            where=remote.url,
            expected=f"nothing, or root {manifest.root}, {wanted}",
            found=f"root {there.root}, {found}",
            do="choose another address, or remove what is there",
        )


def _form(manifest: Manifest) -> str:
    return manifest.encoding.codec if manifest.encoding else "raw"


def _refuse_foreign(remote: Remote, found: Iterable[str], manifest: Manifest) -> None:
    """Raise Problem where there are files at the URL that no push of this store left there."""
    foreign = {name for name in found if not name.endswith(PARTIAL)} - set(manifest.files)
    if foreign:
        raise Problem(
            "There are other files at this address.",
            where=remote.url,
            expected="nothing, or the files of this store",
            found=f"{len(foreign)} others, as {min(foreign)}",
            do="add a name of its own for the store to the address",
        )


def _is_there(folder: Path, manifest: Manifest) -> bool:
    """Whether the store is in the folder, by the sizes of its files. Raises Problem where another one is."""
    if not (folder / NAME).exists():
        return False
    found = Manifest.load(folder)
    if found.root != manifest.root:
        raise Problem(
            "Another store is in this folder.",
            where=folder.absolute(),
            expected=f"nothing, or root {manifest.root}",
            found=f"root {found.root}" if found.root else "a store that is not finished",
            do="choose another folder",
        )
    return not wrong_sizes(folder, found.stored)


def _missing(folder: Path, manifest: Manifest, progress: Progress) -> set[str]:
    """The files that are still to be fetched. Raises Problem where something in the folder is no part of the store.

    Without a manifest a file that differs is not damaged but someone else's: what a pull wrote was whole and verified.
    """
    if folder.exists() and not folder.is_dir():
        raise _in_the_way(folder, [folder.name])
    bad = {file.path for file in wrong_contents(folder, manifest.files, progress)}
    strange = [file.path for file in foreign_entries(folder, manifest.files) if not file.path.endswith(PARTIAL)]
    if not (folder / NAME).exists():
        strange += [name for name in bad if os.path.lexists(folder / name)]
    if strange:
        raise _in_the_way(folder, strange)
    return bad


def _in_the_way(folder: Path, names: list[str]) -> Problem:
    return Problem(
        "Something else is where the store is to go.",
        where=folder.absolute(),
        expected="an empty folder, or what an earlier pull of this store left",
        found=", ".join(sorted(names)),
        do="choose another folder, or move this away",
    )
