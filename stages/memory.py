"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""`mallopt` parameters of glibc."""


def keep_freed_memory() -> None:
    """Let large tensors be made of memory that freed ones leave behind, instead of fresh pages from the system.

    A training step or an evaluated batch makes dozens of tensors of the same sizes; with glibc's defaults every one is
    mapped, zeroed page by page and unmapped: a step of a ReLU SAE of 640 x 2304 takes 70 ms instead of 54. It changes
    no bit. The process keeps up to 2 GiB that are free.
    """
    if sys.platform.startswith("linux"):
        allocator = ctypes.CDLL(None)
        if hasattr(allocator, "mallopt"):  # musl has none
            allocator.mallopt(_MMAP_THRESHOLD, 1 << 30)
            allocator.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
