"""The other side of the tests of sharing: an S3 server, a web server with ranges, and a line that breaks."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any


class RangeHandler(SimpleHTTPRequestHandler):
    """Files of a folder, with single ranges."""

    def send_head(self) -> Any:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            return super().send_head()
        start, end = int(wanted[1]), int(wanted[2])
        content = path.read_bytes()
        piece = content[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(piece) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        return BytesIO(piece)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def web_server(folder: Path, handler: type[SimpleHTTPRequestHandler] = RangeHandler) -> Iterator[str]:
    """Serves a folder; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class BreakingLine:
    """A TCP proxy whose connections are cut once they carried some bytes together, until it is mended."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self._left: float = float("inf")
        self._forever = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, n_bytes: int, *, forever: bool = False) -> None:
        """Cut the connection that carries the `n_bytes`-th byte from now; `forever`: and all that follow."""
        with self._lock:
            self._left, self._forever = n_bytes, forever

    def mend(self) -> None:
        self.cut_after(2**60)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                with self._lock:
                    self._left -= len(data)
                    broken = self._left < 0
                    if broken:
                        self.cuts += 1
                        self._left = -1 if self._forever else float("inf")
                if broken:
                    target.sendall(data[: len(data) // 2])
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
