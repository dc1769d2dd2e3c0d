"""JSON schemas inside the installed sae-bench, found without importing it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path


def saebench_schema(kind: str) -> dict:
    """That of the output of an evaluation: `core` or `unlearning`."""
    spec = importlib.util.find_spec("sae_bench")
    assert spec is not None, "install it: pip install --no-deps sae-bench==0.6.0"
    folder = Path(spec.submodule_search_locations[0])
    return json.loads((folder / "evals" / kind / f"eval_output_schema_{kind}.json").read_text())
