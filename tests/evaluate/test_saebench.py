"""All scalars against SAEBench 0.6.0 itself, on the same tokens and the same activations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.evaluate.features import latent_metrics, misc_metrics
from stages.evaluate.output import CATEGORIES
from stages.evaluate.splicing import reconstruction
from stages.evaluate.variance import sparsity_variance
from stages.language_model.config import ModelConfig
from stages.language_model.model import load
from stages.language_model.splice import Splice
from tests.evaluate.stand_ins import MemoryStore, dead_sae, random_rows, random_sae
from tests.tiny import tiny_model_folder

D, LAYER, CONTEXT, BATCH = 32, 1, 24, 4
BATCHES = [np.arange(i, i + BATCH) for i in range(0, 20, BATCH)]
RECONSTRUCTION, VARIANCE = BATCHES[:2], BATCHES[2:]


@dataclass
class TokenStore:
    """What SAEBench asks of an `ActivationsStore`: batches in order."""

    batches: list[torch.Tensor]
    context_size: int = CONTEXT
    store_batch_size_prompts: int = BATCH
    served: int = field(default=0)

    def get_batch_tokens(self, _size: int) -> torch.Tensor:
        self.served += 1
        return self.batches[self.served - 1]

    def reset_input_dataset(self) -> None:
        """Does not rewind, like the original."""


def judge(sae: Any, folder: Path, store: MemoryStore) -> dict[str, Any]:
    """SAEBench's own numbers, by its own code, through TransformerLens's bridge."""
    from sae_bench.evals.core import main as core
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    sae.cfg = SimpleNamespace(
        hook_name=f"blocks.{LAYER}.hook_resid_post",
        hook_layer=LAYER,
        hook_head_index=None,
        d_sae=sae.W_dec.shape[0],
        architecture_str="standard",
    )
    sae.device = torch.device("cpu")
    flags = "kl ce_loss l2_norms sparsity_metrics variance_metrics featurewise_density_statistics"
    config = CoreEvalConfig(
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=len(RECONSTRUCTION),
        n_eval_sparsity_variance_batches=len(VARIANCE),
        context_size=CONTEXT,
        exclude_special_tokens_from_reconstruction=True,
        compute_featurewise_weight_based_metrics=True,
        **{f"compute_{flag}": True for flag in flags.split()},
    )
    tokens = TokenStore([torch.as_tensor(store.tokens(rows)).long() for rows in BATCHES])
    metrics, latents = core.run_evals(sae, tokens, bridge, config, ignore_tokens={0, 1, 2})
    assert tokens.served == len(BATCHES)
    return metrics | {"misc_metrics": core.calculate_misc_metrics(latents), "latents": latents}


def agrees(found: float, expected: float) -> bool:
    """DESIGN's figure: 1e-4 relative, or 1e-6 absolute under 1e-2."""
    if math.isnan(expected):
        return math.isnan(found)
    tolerance = 1e-6 if abs(expected) < 1e-2 else 1e-4 * abs(expected)
    return abs(found - expected) <= tolerance


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox"])
def test_every_scalar_equals_saebench(kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path, kind, layers=3, d=D)
    lm = load(ModelConfig(kind, str(folder), dtype="float32"))
    splice = Splice(lm, LAYER)
    tokens, document = random_rows(20, CONTEXT, 300)
    activations = splice.resid(torch.as_tensor(tokens).long()).clone()
    store = MemoryStore(activations, tokens, document, LAYER)
    spread = float(activations[torch.as_tensor(document >= 0)].std())
    saes = {"random": random_sae(D, 48, 0, spread), "dead": dead_sae(D, 8)}
    variances = sparsity_variance(saes, store, LAYER, VARIANCE)
    splicings = reconstruction(saes, splice, store, RECONSTRUCTION)
    for name, sae in saes.items():
        expected = judge(sae, folder, store)
        ours = variances[name].scalars | splicings[name].scalars
        latents = latent_metrics(sae, variances[name])
        scalars = {key: value for category in CATEGORIES for key, value in expected[category].items()}
        assert set(scalars) == set(ours) - {"explained_variance_centred", "l0_events"}
        scalars |= expected["misc_metrics"]
        ours |= misc_metrics(latents)
        wrong = {k: (ours[k], v) for k, v in scalars.items() if not agrees(ours[k], v)}
        assert not wrong, (name, wrong)
        for key, values in expected["latents"].items():
            torch.testing.assert_close(
                latents[key].float(), torch.tensor(values), rtol=1e-4, atol=1e-6, equal_nan=True, msg=key
            )
