"""SAEBench's and SAELens's own core metrics, by their own code, through TransformerLens's bridge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stages.evaluate.core.document import CATEGORIES

IGNORED = {0, 1, 2}
"""Special tokens of the tiny tokenizer."""
FLAGS = (
    "kl ce_loss l2_norms sparsity_metrics variance_metrics featurewise_density_statistics "
    "featurewise_weight_based_metrics"
)


@dataclass
class TokenStore:
    """What both ask of an `ActivationsStore`: batches in order."""

    batches: Sequence[Tensor]
    served: int = field(default=0)

    @property
    def context_size(self) -> int:
        return self.batches[0].shape[1]

    @property
    def store_batch_size_prompts(self) -> int:
        return len(self.batches[0])

    def get_batch_tokens(self, _size: int) -> Tensor:
        self.served += 1
        return self.batches[self.served - 1].long()

    def reset_input_dataset(self) -> None:
        """Does not rewind, like the original."""


def bridge_to(folder: Path) -> Any:
    """A Hugging Face folder as a model of TransformerLens."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)


def _configured(sae: Any, layer: int) -> Any:
    hook = SimpleNamespace(hook_name=f"blocks.{layer}.hook_resid_post", hook_head_index=None)
    sae.cfg = SimpleNamespace(
        **vars(hook), metadata=hook, hook_layer=layer, d_sae=sae.W_dec.shape[0], architecture_str="standard"
    )
    sae.device = torch.device("cpu")
    return sae


def _settings(reconstruction: Sequence[Tensor], variance: Sequence[Tensor]) -> dict[str, Any]:
    return {
        "batch_size_prompts": len(variance[0]),
        "n_eval_reconstruction_batches": len(reconstruction),
        "n_eval_sparsity_variance_batches": len(variance),
        **{f"compute_{flag}": True for flag in FLAGS.split()},
    }


def _flat(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for category in CATEGORIES for name, value in metrics[category].items()}


def saebench(
    sae: Any, bridge: Any, layer: int, reconstruction: Sequence[Tensor], variance: Sequence[Tensor]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """SAEBench's scalars and metrics of latents, on batches of tokens."""
    from sae_bench.evals.core import main
    from sae_bench.evals.core.eval_config import CoreEvalConfig

    settings = _settings(reconstruction, variance) | {"exclude_special_tokens_from_reconstruction": True}
    config = CoreEvalConfig(context_size=variance[0].shape[1], **settings)
    tokens = TokenStore([*reconstruction, *variance])
    metrics, latents = main.run_evals(_configured(sae, layer), tokens, bridge, config, ignore_tokens=IGNORED)
    assert tokens.served == len(tokens.batches)
    return _flat(metrics) | main.calculate_misc_metrics(latents), latents


def saelens(
    sae: Any, bridge: Any, layer: int, reconstruction: Sequence[Tensor], variance: Sequence[Tensor]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """SAELens's."""
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    tokens, config = TokenStore([*reconstruction, *variance]), EvalConfig(**_settings(reconstruction, variance))
    metrics, latents = run_evals(_configured(sae, layer), tokens, bridge, ActivationScaler(), config)  # type: ignore[arg-type]
    assert tokens.served == len(tokens.batches)
    return _flat(metrics), latents


def agrees(found: float, expected: float) -> bool:
    """DESIGN's figure: 1e-4 relative, or 1e-6 absolute under 1e-2."""
    if math.isnan(expected):
        return math.isnan(found)
    tolerance = 1e-6 if abs(expected) < 1e-2 else 1e-4 * abs(expected)
    return abs(found - expected) <= tolerance


def assert_equal(
    found: dict[str, float], expected: dict[str, float], latents: dict[str, Tensor], theirs: dict[str, list[float]]
) -> None:
    """All of a judge's numbers."""
    wrong = {name: (found[name], value) for name, value in expected.items() if not agrees(found[name], value)}
    assert not wrong
    for name, values in theirs.items():
        torch.testing.assert_close(
            latents[name].float(), torch.tensor(values), rtol=1e-4, atol=1e-6, equal_nan=True, msg=name
        )
