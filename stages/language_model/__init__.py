"""Load a causal language model, turn text into packed rows of tokens, run it to a layer, splice at a layer.

The names below are loaded when first used: reading parameters must not cost an import of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.language_model.config import CorpusConfig, ModelConfig
    from stages.language_model.model import LanguageModel, load, n_layers
    from stages.language_model.runner import LayerRunner
    from stages.language_model.source import resolve
    from stages.language_model.splice import Splice

__all__ = [
    "CorpusConfig",
    "LanguageModel",
    "LayerRunner",
    "ModelConfig",
    "Splice",
    "load",
    "n_layers",
    "resolve",
]

HOMES = {
    "config": ("CorpusConfig", "ModelConfig"),
    "model": ("LanguageModel", "load", "n_layers"),
    "runner": ("LayerRunner",),
    "source": ("resolve",),
    "splice": ("Splice",),
}


def __getattr__(name: str) -> Any:
    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
