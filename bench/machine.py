"""What every measurement says about where it was taken."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from stages.precision import cpu_capability, native_dtype
from store.files import write_json

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, threads, number format and versions."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "capability": cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "native_dtype": str(native_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def record(name: str, figures: dict[str, Any]) -> None:
    """Print the figures and keep them as `bench/results/NAME.json`."""
    document = {"machine": machine(), **figures}
    print(json.dumps(document, indent=2))
    write_json(RESULTS / f"{name}.json", document)
