"""Peak memory of a whole `pipeline harvest`, a process of its own, at two sizes of the corpus.

python -m bench.harvest_memory [--tokens 32768 131072]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import store
from bench.machine import record

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from pipeline.app import main; main()", "harvest"]


def peak(tokens: int) -> int:
    """Bytes that the process held at most."""
    with tempfile.TemporaryDirectory(dir=ROOT) as temporary:
        folder = Path(temporary) / "store"
        child = subprocess.Popen([*COMMAND, "--tokens", str(tokens), "--store", str(folder)], cwd=ROOT)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"the harvest ended with {os.waitstatus_to_exitcode(status)}")
        harvested = store.open(folder)
        assert harvested.n_sequences * harvested.context >= tokens
        return usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32_768, 131_072])
    arguments = parser.parse_args()
    record("harvest-memory", {"peak_bytes_by_tokens": {str(tokens): peak(tokens) for tokens in arguments.tokens}})


if __name__ == "__main__":
    main()
