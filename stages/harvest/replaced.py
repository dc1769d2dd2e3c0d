"""The store that was in a folder before: it goes when nothing that was asked can prevent the new one any more."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from store import remove_store
from store.files import files_below
from store.writer import is_vacant

SUFFIX = ".replaced"


class Replaced:
    """A store set aside, in a folder of its own beside that of the new one.

    A corpus that cannot be read, a model that cannot be loaded and too little disk show after the new store has begun.
    Whatever ends it before then, the old store comes back; after a kill the next call brings it back, or goes on.
    """

    def __init__(self, folder: Path) -> None:
        """Bring back what an interrupted call left aside without a new store."""
        self.folder, self._aside = folder, folder.with_name(folder.name + SUFFIX)
        if self._aside.exists() and is_vacant(folder):
            self.bring_back()

    def __enter__(self) -> Replaced:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.bring_back()

    @property
    def waits(self) -> bool:
        """Whether there is a store aside."""
        return self._aside.exists()

    @property
    def size(self) -> int:
        """Bytes that its going will free."""
        return sum(path.lstat().st_size for path in files_below(self._aside))

    def set_aside(self) -> None:
        """Move what is in the folder out of the way."""
        self.folder.rename(self._aside)

    def bring_back(self) -> None:
        """Put the store that is aside in the place of what has begun since, if there is one."""
        if self.waits:
            remove_store(self.folder)
            self._aside.rename(self.folder)

    def forget(self) -> None:
        """Delete the store that is aside, if there is one."""
        if self.waits:
            remove_store(self._aside)
            self._aside.with_name(f"{self._aside.name}.lock").unlink()
