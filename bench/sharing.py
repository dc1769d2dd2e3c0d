"""Push and pull of the current profile's store to an S3-compatible server on loopback, raw and compressed.

    python -m bench.sharing

The server is moto's, a process of its own that keeps everything in memory and shares these cores, on a line without
delay. Every transfer is verified at both ends. One push is broken off for good in the middle and run again: how much
it sends the second time. Pulled stores are verified and have the root of the pushed one.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

import store
from bench.machine import record
from pipeline.params import read_params
from pipeline.paths import Project
from store import ActivationStore, Transfer
from store.problem import Problem
from tests.store.remotes import BreakingLine

ROOT = Path(__file__).parents[1]
BUCKET = "stores"


@contextmanager
def server() -> Iterator[BreakingLine]:
    """A line to an S3 server; the environment names it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    line = BreakingLine(port)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    try:
        client = boto3.client("s3")
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
                break
            except Exception:
                time.sleep(0.2)
        yield line
    finally:
        line.close()
        process.kill()
        process.wait()


def timed(transfer: Callable[[], Transfer]) -> dict[str, Any]:
    """Rate and sizes of a transfer."""
    begun = time.perf_counter()
    done = transfer()
    seconds = time.perf_counter() - begun
    return {
        "seconds": round(seconds, 1),
        "raw_megabytes_per_second": round(done.n_bytes / seconds / 1e6, 1),
        "raw_bytes": done.n_bytes,
        "remote_bytes": done.n_remote_bytes,
        "moved_bytes": done.n_moved,
    }


def broken_push(folder: Path, line: BreakingLine, n_bytes: int) -> dict[str, Any]:
    """Push over a line that breaks for good half-way, then again over the mended one."""
    direct = os.environ["AWS_ENDPOINT_URL"]
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{line.port}"
    line.cut_after(n_bytes // 2, forever=True)
    try:
        store.push(folder, f"s3://{BUCKET}/broken")
        raise SystemExit("the line did not break")
    except Problem as problem:
        message = str(problem).splitlines()[0]
    line.mend()
    again = timed(lambda: store.push(folder, f"s3://{BUCKET}/broken"))
    os.environ["AWS_ENDPOINT_URL"] = direct
    return {"message": message, "connections_cut": line.cuts, "again": again}


def round_trip(opened: ActivationStore, name: str, compress: bool, folder: Path) -> dict[str, Any]:
    """Push to the bucket, pull from there."""
    url = f"s3://{BUCKET}/{name}"
    figures = {
        "push": timed(lambda: store.push(opened.path, url, compress)),
        "pull": timed(lambda: store.pull(url, folder)),
    }
    pulled = store.verify(folder)
    if pulled.problems or pulled.root != opened.root:
        raise SystemExit(f"the {name} store came back as another")
    return figures


def main() -> None:
    opened = store.open(Project(ROOT).store(read_params(ROOT).profile))
    with server() as line, tempfile.TemporaryDirectory() as temporary:
        figures: dict[str, Any] = {
            name: round_trip(opened, name, compress, Path(temporary) / name)
            for name, compress in {"raw": False, "compressed": True}.items()
        }
        figures["broken_push"] = broken_push(opened.path, line, figures["raw"]["push"]["raw_bytes"])
    record("sharing", {"root": opened.root, **figures})


if __name__ == "__main__":
    main()
