"""Where this project keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """`$XDG_CACHE_HOME` (or `~/.cache`) / tsae-pipeline / `kind`; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsae-pipeline" / kind
