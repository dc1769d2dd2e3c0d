"""The request: everything that decides *what* a store contains. Its digest is the fingerprint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stages.harvest.config import HarvestConfig
from stages.language_model import corpus
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import identity, n_layers, positions, width
from stages.language_model.source import resolve
from store.layout import hook_name
from store.manifest import Manifest
from store.problem import Problem
from store.progress import SILENT, Progress

CONTENT_VERSION = 1
"""Raised whenever a change to this code changes the bytes of a store, so that old ones are not reused."""


def make_request(
    config: HarvestConfig, model: ModelConfig, text: CorpusConfig, progress: Progress = SILENT
) -> dict[str, Any]:
    """Describe the content of a store without loading the model.

    The model is named by its name and by what it is (sha256 of weights, tokenizer and configuration), not by where it
    lies, so that two people with a copy each get one fingerprint.

    Raises:
        Problem: if the model or corpus cannot be had, or the model lacks a layer.
    """
    check_layers(config, model)
    folder = resolve(model, progress)
    _check_context(config, positions(folder))
    asked = asdict(config)
    asked.pop("batch_rows")
    return {
        **asked,
        "layers": config.layer_list,
        "hooks": [hook_name(layer) for layer in config.layer_list],
        "model": {"name": model.name, "dtype": model.dtype, "d_model": width(folder), **identity(folder)},
        "corpus": {**corpus.identity(text), "text_column": text.text_column, "tokens": text.tokens},
        "content_version": CONTENT_VERSION,
    }


def at_recorded_revision(text: CorpusConfig, stores: Iterable[Path]) -> CorpusConfig:
    """The corpus at the revision of the hub that the first of these stores has of it.

    What was harvested is not harvested again, nor refused offline, because somebody added to the data set.
    """
    if text.revision is not None:
        return text
    for folder in stores:
        try:
            recorded = Manifest.load(folder).request.get("corpus")
        except Problem:
            continue
        if isinstance(recorded, dict) and recorded.get("source") == text.source and "revision" in recorded:
            return replace(text, revision=str(recorded["revision"]))
    return text


def _check_context(config: HarvestConfig, positions: int | None) -> None:
    """Refuse rows that are longer than the model can read."""
    if positions is not None and config.context > positions:
        raise Problem(
            "The model does not read so many positions.",
            where="harvest.context",
            expected=f"at most {positions:,}",
            found=config.context,
            usage=True,
        )


def check_layers(config: HarvestConfig, model: ModelConfig) -> None:
    """Refuse a layer that the model does not have, before its weights are loaded."""
    count = n_layers(model)
    missing = [layer for layer in config.layer_list if layer >= count]
    if missing:
        raise Problem(
            f"{model.name} has no layer {', '.join(map(str, missing))}.",
            where="harvest.layers",
            expected=f"0 to {count - 1} (layers count from 0)",
            found=config.layers,
            do="choose another layer with --layer, or another model with --profile or --model",
            usage=True,
        )
