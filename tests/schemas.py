"""JSON schemas inside the installed sae-bench, found without importing it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

ADDED = {"misc_metrics", "explained_variance_legacy", "max_encoder_cosine_sim", "max_decoder_cosine_sim"}
"""What SAEBench's core schema has gained since version 0.3.2, in which nothing else differs."""


def saebench_schema(kind: str) -> dict:
    """That of the output of an evaluation: `core` or `unlearning`."""
    spec = importlib.util.find_spec("sae_bench")
    assert spec is not None, "install it: pip install --no-deps sae-bench==0.6.0"
    folder = Path(spec.submodule_search_locations[0])
    return json.loads((folder / "evals" / kind / f"eval_output_schema_{kind}.json").read_text())


def legacy_core_schema() -> dict:
    """The core schema of versions up to 0.3.2."""
    return _without(saebench_schema("core"), ADDED)


def _without(value: Any, names: set[str]) -> Any:
    """The same without some names, as keys and in lists."""
    match value:
        case dict():
            return {key: _without(each, names) for key, each in value.items() if key not in names}
        case list():
            return [_without(each, names) for each in value if not isinstance(each, str) or each not in names]
    return value
