"""Making bad files of a finished store again. A file is kept only if its bytes are those that the manifest records.

So the root never changes. What can be made from the manifest and from sound files is made here; who calls may know
more ways: another copy, or the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from store.fetch import Fetch, remote_manifest
from store.files import remove_partials
from store.layout import DOCUMENTS
from store.lock import Lock
from store.manifest import Manifest
from store.problem import Problem
from store.progress import SILENT, Progress
from store.records import FileRecord
from store.remote import Remote
from store.sequences import put
from store.statistics import compute_statistics, statistics_files
from store.verify import BadFile, foreign_entries, wrong_contents, wrong_sizes

Parts = tuple[bytes | memoryview, ...]
"""Content of a file, in pieces that follow each other."""
Remake = Callable[[Path, Manifest, Collection[str], Progress], Iterator[tuple[str, Parts]]]
"""Makes some of the named bad files of a store again, one at a time; raises Problem where it cannot."""


@dataclass
class Repair:
    """What became of a store's bad files."""

    root: str
    """Root digest of the store, before and after."""
    mended: dict[str, str] = field(default_factory=dict)
    """Path -> from what it was made again."""
    left: dict[str, BadFile] = field(default_factory=dict)
    """Path -> what is still wrong with it; files that do not belong to the store are never deleted."""
    reasons: list[str] = field(default_factory=list)
    """Why files are left."""


def repair(path: str | Path, ways: Mapping[str, Remake] | None = None, progress: Progress = SILENT) -> Repair:
    """Mend the finished store `path` as far as `ways` allow, tried in their order; a key says what a way uses.

    What follows from the manifest and from sound files is mended in any case. Raises Problem for a store that is
    partial (a harvest goes on with it), whose manifest is damaged, or that another process is writing.
    """
    folder = Path(path)
    Manifest.load(folder)  # before a lock is left beside what is no store
    lock = Lock(folder)
    try:
        manifest = Manifest.load(folder)
        if manifest.root is None:
            raise Problem(
                "This store is partial: there is nothing to repair yet.",
                where=folder.absolute(),
                do="run the same `pipeline harvest` again; it goes on where it stopped",
            )
        remove_partials(folder)
        bad = {file.path: file for file in wrong_contents(folder, manifest.files, progress)}
        result = Repair(manifest.root, left=bad)
        own = {"the manifest": from_manifest, "sound files": from_sound_files}
        for name, way in [*own.items(), *(ways or {}).items(), ("sound files", from_sound_files)]:
            _try(folder, manifest, name, way, result, progress)
    finally:
        lock.release()
    result.left.update({file.path: file for file in foreign_entries(folder, manifest.files)})
    return result


def _try(folder: Path, manifest: Manifest, way: str, make: Remake, result: Repair, progress: Progress) -> None:
    """Let one way mend what it can."""
    if not result.left:
        return
    try:
        for name, parts in make(folder, manifest, set(result.left), progress):
            found = FileRecord.of(*parts)
            if name not in result.left:
                continue
            if found != manifest.files[name]:
                result.reasons.append(f"{name}: {way} gives other content, sha256 {found.sha256}")
            elif obstacle := _obstacle(folder, name):
                result.reasons.append(f"{name}: {obstacle}")
            else:
                put(folder, name, *parts)
                result.mended[name] = way
                del result.left[name]
    except Problem as problem:
        result.reasons.append(f"{way}: {problem}")


def _obstacle(folder: Path, name: str) -> str | None:
    """What keeps a file from being replaced: a link that leads elsewhere, or a folder that is not empty."""
    for parent in PurePosixPath(name).parents:
        if (folder / parent).is_symlink() and str(parent) != ".":
            return f"{parent} is a symbolic link; remove it"
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError:
            return "a folder with files is in its place; move it away"
    return None


def from_manifest(
    folder: Path, manifest: Manifest, bad: Collection[str], progress: Progress
) -> Iterator[tuple[str, Parts]]:
    """The `zarr.json` that the geometry decides."""
    for name, content in manifest.layout.metadata().items():
        if name in bad:
            yield name, (content,)


def from_sound_files(
    folder: Path, manifest: Manifest, bad: Collection[str], progress: Progress
) -> Iterator[tuple[str, Parts]]:
    """Statistics of the layers whose activations and documents are sound."""
    layout = manifest.layout
    wanted = [
        layer
        for layer, array in layout.activations.items()
        if layout.statistics_paths(layer).intersection(bad)
        and not {DOCUMENTS, *layout.document.files(), *array.files()}.intersection(bad)
    ]
    for layer, statistics in compute_statistics(folder, layout, wanted, progress).items():
        for name, content in statistics_files(layout, layer, statistics).items():
            if name in bad:
                yield name, (content,)


def from_copy(read: Callable[[str, FileRecord], bytes | None]) -> Remake:
    """A way to mend from another copy of the store: `read(path, record)` gives a file of it, None if it lacks it."""

    def make(folder: Path, manifest: Manifest, bad: Collection[str], progress: Progress) -> Iterator[tuple[str, Parts]]:
        names = sorted(set(bad) & set(manifest.files))
        progress.start("fetch", sum(manifest.files[name].size for name in names), "B")
        for name in names:
            record = manifest.files[name]
            content = read(name, record)
            if content is not None:
                yield name, (content,)
            progress.advance(record.size)

    return make


def reading(copy: Path) -> Callable[[str, FileRecord], bytes | None]:
    """Reads files of the copy in the folder `copy`, those that are of the recorded size and can be read."""

    def read(name: str, record: FileRecord) -> bytes | None:
        try:
            return None if wrong_sizes(copy, {name: record}) else (copy / name).read_bytes()
        except OSError:
            return None

    return read


def fetching(url: str) -> Callable[[str, FileRecord], bytes | None]:
    """Reads files of the copy at a URL, in raw form, those that are what its manifest says. One that is damaged there
    keeps no other from being fetched. Raises Problem where there is no store."""
    remote = Remote(url)
    manifest = remote_manifest(remote)
    place = TemporaryDirectory()
    fetch = Fetch(remote, manifest, Path(place.name))

    def read(name: str, record: FileRecord) -> bytes | None:
        path = Path(place.name) / name  # `place` lives as long as this function does
        if name not in manifest.files or fetch.file(name).bad:
            return None
        content = path.read_bytes()
        path.unlink()
        return content

    return read
