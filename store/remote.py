"""A store's files at a URL: in an object store, on a web server, or in another folder. fsspec does the talking."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from store.files import write_atomically
from store.problem import Problem

PIECE = 8 * 2**20
"""Bytes that are asked for at once; what a broken connection costs."""
PAUSES = (0.5, 1.0, 2.0)
"""Seconds to wait before each further attempt."""
READ_ONLY = ("http", "https")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_OPTIONS = {"s3": {"config_kwargs": {"retries": {"max_attempts": 0}}}}
"""The attempts here are enough: those of botocore and of s3fs would multiply them to minutes."""

T = TypeVar("T")


class Unreachable(Problem):
    """The other side did not answer, however often it was asked."""


class Missing(Problem):
    """The other side answers that there is no such file or folder."""


def is_url(path: str | Path) -> bool:
    """Whether this names something for `Remote`, and not a folder of this machine."""
    return "://" in str(path)


class Remote:
    """The files below a URL. Threads may share it."""

    def __init__(self, url: str | Path) -> None:
        """Raises Problem for a URL that no installed driver understands."""
        self.url = str(url).rstrip("/")
        protocol = get_protocol(self.url)
        options: dict[str, Any] = _OPTIONS.get(protocol, {})
        try:
            self._fs, self._path = url_to_fs(self.url, skip_instance_cache=True, use_listings_cache=False, **options)
        except ImportError as error:
            package = _PACKAGES.get(protocol, f"the fsspec driver for {protocol}")
            raise Problem(
                f"A package is missing that talks to {protocol}:// addresses.",
                where=self.url,
                found=str(error),
                do=f"pip install {package}",
                usage=True,
            ) from None
        except ValueError as error:
            known = ", ".join(f"{name}://" for name in ("s3", "gs", *READ_ONLY))
            raise Problem(
                "This is no address of a store.",
                expected=f"a folder, {known}",
                found=f"{self.url} ({error})",
                usage=True,
            ) from None
        if hasattr(self._fs, "retries"):
            self._fs.retries = 1  # s3fs: as above
        self.read_only = protocol in READ_ONLY

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that the URL names; None where it is elsewhere."""
        return Path(self._path) if isinstance(self._fs, LocalFileSystem) else None

    def sizes(self) -> dict[str, int]:
        """Size of every file below the URL, which must be one that can be listed."""
        try:
            found = self._attempt("", lambda: self._fs.find(self._path, detail=True))
        except Missing:
            return {}
        prefix = self._fs._strip_protocol(self._path).rstrip("/") + "/"
        return {name.removeprefix(prefix): info["size"] for name, info in found.items() if name.startswith(prefix)}

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        info = self._info(name)
        return None if info is None else info["size"]

    def read(self, name: str, size: int) -> bytes:
        """The content of a file of `size` bytes. Raises Problem for one of another size, before it is read."""
        found = self.size(name)
        if found != size:
            raise self._other_size(name, size, "no such file" if found is None else f"{found} bytes")
        return b"".join(self._pieces(name, size))

    def write(self, name: str, content: bytes) -> None:
        """Write a file: whole or not at all, where the service can do that."""
        if self.folder is not None:
            write_atomically(self.folder / name, content)
        else:
            self._attempt(name, lambda: self._fs.pipe_file(self._place(name), content))

    def holds(self, name: str, content: bytes) -> bool:
        """Whether a file has this content: by the checksum that the service keeps of it, else by reading it back."""
        info = self._info(name)
        if info is None or info["size"] != len(content):
            return False
        if _md5(info) == hashlib.md5(content, usedforsecurity=False).hexdigest():
            return True
        pieces = enumerate(self._pieces(name, len(content)))
        return all(content[i * PIECE : (i + 1) * PIECE] == piece for i, piece in pieces)

    def _info(self, name: str) -> dict[str, Any] | None:
        try:
            info = self._attempt(name, lambda: self._fs.info(self._place(name)))
        except Missing:
            return None
        return info if info["type"] == "file" else None

    def _pieces(self, name: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, PIECE):
            end = min(start + PIECE, size)
            piece: bytes = self._attempt(name, partial(self._fs.cat_file, self._place(name), start=start, end=end))
            if len(piece) != end - start:
                raise self._other_size(name, end - start, f"{len(piece)} bytes in answer to a range")
            yield piece

    def _place(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _attempt(self, name: str, call: Callable[[], T]) -> T:
        """What `call` returns, tried again after growing pauses where the connection fails."""
        where = f"{self.url}/{name}".rstrip("/")
        for pause in (*PAUSES, None):
            try:
                return call()
            except PermissionError as error:
                raise Problem(
                    "The remote store does not let this in.", where=where, found=str(error), do="check the credentials"
                ) from error
            except Exception as error:  # every driver has errors of its own for a connection that fails
                if _is_missing(error):
                    raise Missing("There is nothing here.", where=where, do="check the address") from None
                if pause is None:
                    raise Unreachable(
                        "The remote store cannot be reached.",
                        where=where,
                        found=f"{type(error).__name__}: {' '.join(str(error.__cause__ or error).split())}",
                        do="check the address, the credentials and the network, and run the same command again",
                    ) from error
                time.sleep(pause)
        raise AssertionError

    def _other_size(self, name: str, size: int, found: str) -> Problem:
        return Problem(
            "A file of the remote store is not what its manifest says.",
            where=f"{self.url}/{name}",
            expected=f"{size} bytes",
            found=found,
            do="ask whoever shares the store to push it again",
        )


def _is_missing(error: Exception) -> bool:
    """Whether an error is the answer that there is no such file. fsspec says so of all that goes wrong with HTTP."""
    status = getattr(error.__cause__, "status", None)
    http = type(error.__cause__).__module__.startswith("aiohttp")
    return isinstance(error, FileNotFoundError) and (not http or status in (404, 410))


def _md5(info: dict[str, Any]) -> str | None:
    """The MD5 (hex) that a service keeps: S3's ETag of a file that was sent in one piece, or that of Google's store."""
    if "md5Hash" in info:
        return base64.b64decode(info["md5Hash"]).hex()
    etag = str(info.get("ETag", "")).strip('"').lower()
    return etag if re.fullmatch("[0-9a-f]{32}", etag) else None
