"""Forks of one warmed process: for tests that kill many, because importing takes longer than what they run.

A fork copies one thread and every lock that the others hold: it is safe only from a process of one thread.
"""

from __future__ import annotations

import os
from pathlib import Path

# For the process that forks. Without them OpenBLAS and pyarrow's allocator start threads when they are imported.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}


def fork() -> int:
    """`os.fork`, refused where another thread may hold a lock that the child would wait for without end."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads run: a fork of this process can hang")
    return os.fork()
