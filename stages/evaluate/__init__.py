"""Stage 3: what a trained SAE keeps of the activations and of the language model, on heldout documents."""

from stages.evaluate.config import EvaluateConfig
from stages.evaluate.run import EvaluationResult, evaluate

__all__ = ["EvaluateConfig", "EvaluationResult", "evaluate"]
