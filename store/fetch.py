"""Files of a remote store on their way into a folder, where they are in raw form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from store.encoding import METADATA_BYTES, EncodedArray
from store.limits import MANIFEST_BYTES
from store.manifest import NAME, Manifest
from store.problem import Problem
from store.records import FileRecord
from store.remote import Remote
from store.sequences import put
from store.transfer import Moved
from store.verify import BadFile, listing


class Fetch:
    """Fetches single files of one remote store, and keeps what its manifest vouches for."""

    def __init__(self, remote: Remote, manifest: Manifest, folder: Path) -> None:
        """`manifest` is that of the remote store. Raises Problem for a form that cannot be decoded."""
        self._remote = remote
        self._records = manifest.stored
        self._folder = folder
        self.manifest = replace(manifest, encoding=None)
        """That of the store in raw form."""
        self._metadata = manifest.layout.metadata()
        self._encoded: dict[str, tuple[EncodedArray, int]] = {}
        for array in manifest.encoded_arrays():
            encoded = EncodedArray.parse(array, self._encoded_metadata(array.metadata_path), remote.url)
            self._encoded |= {name: (encoded, shard) for shard, name in enumerate(array.files())}

    def sizes(self, names: set[str]) -> dict[str, int]:
        """Bytes that each of the files `names` is at the remote."""
        return {name: self._records[name].size for name in names}

    def file(self, name: str) -> Moved:
        """Fetch a file and write it, if it is what the manifest says. What follows from the manifest is not fetched."""
        if name in self._metadata:
            put(self._folder, name, self._metadata[name])
            return Moved(0)
        record = self._records[name]
        content = self._remote.read(name, record.size)
        if (found := FileRecord.of(content)) != record:
            return Moved(0, BadFile(name, f"sha256 {record.sha256}", f"sha256 {found.sha256}"))
        parts: tuple[bytes | memoryview, ...] = (content,)
        if name in self._encoded:
            encoded, shard = self._encoded[name]
            parts = encoded.array.encode(encoded.decode(shard, content, f"{self._remote.url}/{name}"))
            if (found := FileRecord.of(*parts)) != (record := self.manifest.files[name]):
                return Moved(0, BadFile(name, f"rows of sha256 {record.sha256}", f"rows of sha256 {found.sha256}"))
        put(self._folder, name, *parts)
        return Moved(len(content))

    def _encoded_metadata(self, name: str) -> bytes:
        record = self._records[name]
        content = self._remote.read(name, min(record.size, METADATA_BYTES))
        if FileRecord.of(content) != record:
            raise bad_remote(self._remote, [BadFile(name, f"sha256 {record.sha256}", "other content")])
        return content


def find_manifest(remote: Remote) -> Manifest | None:
    """The manifest of a remote store, checked; None where there is none. Raises Problem for one that is no manifest."""
    size = remote.size(NAME)
    if size is None:
        return None
    where = f"{remote.url}/{NAME}"
    if size > MANIFEST_BYTES:
        raise Problem(
            "This is no manifest of a store.", where=where, expected=f"{MANIFEST_BYTES} bytes at most", found=size
        )
    return Manifest.parse(remote.read(NAME, size), where)


def remote_manifest(remote: Remote) -> Manifest:
    """The manifest of a finished remote store. Raises Problem where there is none."""
    manifest = find_manifest(remote)
    if manifest is None or manifest.root is None:
        raise Problem(
            "There is no finished activation store at this address.",
            where=remote.url,
            expected=f'a {NAME} with "status": "complete"',
            found=f"no {NAME}" if manifest is None else f'"status": "{manifest.status}"',
            do="check the address, or push the store (again) with `pipeline store push`",
        )
    return manifest


def bad_remote(remote: Remote, bad: list[BadFile]) -> Problem:
    """What to say of files of a remote store that are not what its manifest says."""
    return Problem(
        f"{len(bad)} files of the remote store are damaged, and were not kept.",
        where=remote.url,
        found=listing(bad),
        do="ask whoever shares the store to push it again",
    )
