"""An environment of its own for SAEBench, whose pins (numpy < 2, datasets < 4) are not ours.

torchvision, which it asks for and never imports, is left out. Beside it stands what reading SAEs with parts that do not
fold needs (`stages.sae.saelens`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from store.cache import cache_folder

TORCH = "torch==2.13.0"
"""Installed first and by itself: a request that names no exact version would fetch the CUDA build."""
PACKAGES = (
    "sae-lens==6.54.12",
    "transformer-lens==3.9.0",
    "transformers==5.23.0",
    "numpy==1.26.4",
    "pyarrow==25.0.1",
    "pandas==2.3.3",
    "datasets==3.6.0",
    "collectibles",
    "dask[array]",
    "google-crc32c",
    "openai>=1",
    "scikit-learn>=1.5.2",
    "seaborn",
    "tabulate",
    "zarr>=3.1",
)
"""pyarrow 26 does not work with numpy 1.26."""
SAEBENCH = ("sae-bench==0.6.0", "sae-probes==0.4.2")


def saebench_python() -> Path:
    """The interpreter of the environment, which the first call makes."""
    folder = cache_folder("saebench-0.6.0")
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        print(f"installing SAEBench into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in ((TORCH,), (TORCH, *PACKAGES), ("--no-deps", *SAEBENCH)):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return python
