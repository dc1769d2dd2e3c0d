"""Forks of one warmed process: for tests that kill many, because importing takes longer than what they run.

A fork copies one thread and every lock that the others hold: it is safe only from a process of one thread.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
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


def in_child(work: Callable[[], object], kill_after: float | None = None) -> bool:
    """Do something in a fork, which may be killed after some seconds; returns whether it was.

    Ends this process where the child ends in any other way.
    """
    child = fork()
    if child == 0:
        work()
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    outcome = os.waitstatus_to_exitcode(status)
    if outcome not in (0, -signal.SIGKILL):
        sys.exit(f"a child ended with {outcome}")
    return outcome != 0
