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

from bench.machine import record

ROOT = Path(__file__).parents[1]


def peak(tokens: int) -> int:
    """Bytes that the process held at most."""
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        command = [
            sys.executable,
            "-m",
            "pipeline.app",
            "harvest",
            "--tokens",
            str(tokens),
            "--store",
            f"{folder}/store",
        ]
        child = subprocess.Popen(command, cwd=ROOT)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"the harvest ended with {os.waitstatus_to_exitcode(status)}")
        return usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32_768, 131_072])
    arguments = parser.parse_args()
    record("harvest-memory", {"peak_bytes_by_tokens": {str(tokens): peak(tokens) for tokens in arguments.tokens}})


if __name__ == "__main__":
    main()
