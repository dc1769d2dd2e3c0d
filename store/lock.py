"""One writer a folder: an advisory lock on a file beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from store.problem import Problem


class Lock:
    """Holds `<folder>.lock` from construction to `release`; the system drops it when the process dies."""

    def __init__(self, folder: Path, what: str = "store") -> None:
        """`what` the folder holds, for the Problem that is raised where it cannot be had."""
        folder = folder.resolve()
        if not folder.name:
            raise Problem(f"A {what} cannot be the root folder.", where=folder, do="choose another folder")
        path = folder.with_name(folder.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise Problem(
                f"A {what} cannot be written here.",
                where=folder.absolute(),
                found=error.strerror,
                do="choose another folder",
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise Problem(
                f"Another process is writing this {what}.",
                where=folder.absolute(),
                found=f"a lock on {path.absolute()}",
                do="wait until it has finished, or stop it",
            ) from None

    def release(self) -> None:
        """Let the next writer in. The file stays: removing it would race with a writer that waits for it."""
        os.close(self._descriptor)
