"""A remote store, opened as if it were here: every file is fetched when it is first needed, verified, and kept.

The copy lies in the user's cache under the root digest, in raw form. Processes may share it: files appear in it whole.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from store.cache import cache_folder
from store.fetch import Fetch, bad_remote, remote_manifest
from store.files import remove_partials
from store.manifest import Manifest
from store.mapping import MappedRows
from store.progress import SILENT, Progress
from store.reader import ActivationStore, open_folder
from store.remote import Remote, is_url
from store.shards import ShardedArray
from store.transfer import move
from store.verify import wrong_contents, wrong_sizes


def open_store(path: str | Path) -> ActivationStore:
    """Open the finished store in the folder `path`, or at a URL such as s3://bucket/store.

    Of a folder, checks the manifest and that every file is there with its size; `ActivationStore.check` reads them
    all. Of a URL, fetches all but the activations into the user's cache; each of their shards follows when it is first
    read, `check` fetches the rest at once. What was fetched before is there already.

    Raises Problem for a store that is missing, partial, of another version, damaged, or that names files outside its
    folder; it lists every bad file.
    """
    return MirroredStore(Remote(path)) if is_url(path) else open_folder(path)


class Mirror:
    """The folder of a remote store's copy."""

    def __init__(self, remote: Remote, manifest: Manifest, folder: Path) -> None:
        self._remote = remote
        self._folder = folder
        self._fetch = Fetch(remote, manifest, folder)
        self._lock = Lock()
        self._in_use = _in_use(folder)

    @property
    def manifest(self) -> Manifest:
        """That of the copy."""
        return self._fetch.manifest

    def complete(self, names: set[str], progress: Progress = SILENT) -> None:
        """Fetch those of the files `names` that are missing or damaged. Raises Problem with all that cannot be had."""
        files = {name: self.manifest.files[name] for name in names}
        self._get({file.path for file in wrong_contents(self._folder, files, progress)}, progress)

    def need(self, name: str) -> None:
        """Fetch a file that is not there yet."""
        with self._lock:
            if wrong_sizes(self._folder, {name: self.manifest.files[name]}):
                self._get({name}, SILENT)

    def _get(self, names: set[str], progress: Progress) -> None:
        _, bad = move(self._fetch.file, self._fetch.sizes(names), "mirror", progress)
        if bad:
            raise bad_remote(self._remote, bad)


class MirroredStore(ActivationStore):
    """A remote store, opened for reading. Made by `store.open`."""

    def __init__(self, remote: Remote) -> None:
        """Mirrors all files but the activations. Raises Problem as `open_store` does."""
        manifest = remote_manifest(remote)
        root = str(manifest.root)
        folder = cache_folder("stores") / root
        self._mirror = Mirror(remote, manifest, folder)
        shards = {name for array in manifest.layout.activations.values() for name in array.files()}
        self._mirror.complete(set(manifest.files) - shards)
        super().__init__(folder, self._mirror.manifest, root)

    def check(self, progress: Progress = SILENT) -> None:
        """Compare every byte with its sha256, and fetch what is missing or differs."""
        self.check_files(self.manifest.files, progress)

    def check_files(self, names: Iterable[str], progress: Progress = SILENT) -> None:
        """The same for some files."""
        self._mirror.complete(set(names), progress)

    def _open(self, array: ShardedArray) -> MappedRows:
        return _MirroredRows(super()._open(array), array, self._mirror)


class _MirroredRows:
    """The rows of an array whose shards are fetched before they are first read."""

    def __init__(self, rows: MappedRows, array: ShardedArray, mirror: Mirror) -> None:
        self._rows = rows
        self._array = array
        self._mirror = mirror
        self._here = np.zeros(array.n_shards, bool)

    def shard(self, shard: int) -> np.ndarray:
        self._need(np.array([shard]))
        return self._rows.shard(shard)

    def row(self, row: int) -> np.ndarray:
        self._need(np.array([row // self._array.rows_per_shard]))
        return self._rows.row(row)

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        self._need(rows // self._array.rows_per_shard)
        self._rows.take(rows, out)

    def _need(self, shards: np.ndarray) -> None:
        for shard in np.unique(shards[~self._here[shards]]).tolist():
            self._mirror.need(self._array.shard_path(shard))
            self._here[shard] = True


def _in_use(folder: Path) -> BinaryIO:
    """A shared lock on the copy for as long as the file is open. Who is alone removes what a kill left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(folder.name + ".lock").open("wb")
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_partials(folder)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file
