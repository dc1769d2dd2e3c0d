"""Stage 3: what a trained SAE keeps of the activations and of the language model, on heldout documents.

`evaluate` is loaded when first used: reading parameters must not cost an import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from stages.evaluate.run import EvaluationResult, evaluate

__all__ = ["EvaluateConfig", "EvaluationResult", "evaluate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stages.evaluate import run

    return getattr(run, name)
