"""Whether a path still leads to the folder that it led to."""

from __future__ import annotations

from pathlib import Path

from store.problem import Problem


class SameFolder:
    """Tells the folder of a store from another one that has taken its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = self._now()

    def _now(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_dev, status.st_ino

    def check(self) -> None:
        """Raise a Problem where it is another folder by now."""
        try:
            same = self._now() == self._identity
        except OSError:
            same = False
        if not same:
            raise Problem(
                "The store was replaced or removed while it was read.",
                where=self.path.absolute(),
                do="start again with the store that is wanted",
            )
