"""The store that was in a folder before: it stays until the one that replaces it is finished."""

from __future__ import annotations

from pathlib import Path

from store import remove_store
from store.files import files_below
from store.manifest import Manifest
from store.writer import is_vacant


class Replaced:
    """A store set aside, in a hidden folder beside that of the new one.

    What prevents the new one before its first shard (a corpus that cannot be read, a model that does not load, values
    that are not finite) brings the old one back. A harvest that was interrupted later goes on, and the old store is
    there until it ends, or until the old parameters are asked for again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        """Where both belong; of a link, what it leads to."""

    @property
    def _aside(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.replaced")

    @property
    def waits(self) -> bool:
        """Whether there is a store aside."""
        return self._aside.exists()

    @property
    def size(self) -> int:
        """Bytes that its going would free: files that are links into a cache free nothing."""
        files = [path.lstat() for path in files_below(self._aside)]
        return sum(file.st_size for file in files if file.st_nlink == 1)

    def recover(self) -> None:
        """Bring back what an interrupted call left aside without a new store."""
        if self.waits and is_vacant(self.folder):
            self.bring_back()

    def set_aside(self) -> bool:
        """Move what is in the folder out of the way; False where what is aside has come back instead, because what
        is in the folder was to replace it and was interrupted."""
        if self.waits and Manifest.load(self.folder).root is None:
            self.bring_back()
            return False
        self.forget()
        self.folder.rename(self._aside)
        return True

    def bring_back(self) -> None:
        """Put the store that is aside in the place of what has begun since, if there is one."""
        if self.waits:
            remove_store(self.folder)
            self._aside.rename(self.folder)

    def forget(self) -> None:
        """Delete the store that is aside, if there is one."""
        if self.waits:
            remove_store(self._aside)
        self._aside.with_name(f"{self._aside.name}.lock").unlink(missing_ok=True)
