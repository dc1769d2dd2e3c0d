"""The numbers that the seeds recorded of an SAE of zeros follow from our definitions; only their format is older."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest
import torch

from stages.evaluate.core import splicing
from stages.evaluate.core.splicing import ABLATION, CLEAN, Comparison, SplicingMeter
from stages.evaluate.core.variance import sparsity_variance
from tests.evaluate.core.seed_record import SEED, VOCABULARY
from tests.evaluate.stand_ins import MemoryStore, dead_sae
from tests.schemas import legacy_core_schema, saebench_schema

METRICS = SEED["eval_result_metrics"]
BEHAVIOUR, PERFORMANCE = METRICS["model_behavior_preservation"], METRICS["model_performance_preservation"]
ROWS, CONTEXT, SEPARATORS = 16, 128, 2
KEPT = ROWS * (CONTEXT - 1) - SEPARATORS
"""Tokens of a batch, of which documents of the usual length leave a few to separators."""


def test_it_has_the_format_of_its_time() -> None:
    jsonschema.validate(SEED, legacy_core_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SEED, saebench_schema("core"))


def test_its_scores_follow_from_its_losses() -> None:
    meter = SplicingMeter(torch.device("cpu"))
    tokens = torch.ones(ROWS * CONTEXT, dtype=torch.float64)
    names = {CLEAN: "without_sae", ABLATION: "with_ablation", "sae": "with_sae"}
    losses = {
        name: (PERFORMANCE[f"ce_loss_{key}"] * tokens, BEHAVIOUR.get(f"kl_div_{key}", 0.0) * tokens)
        for name, key in names.items()
    }
    meter.add(losses, torch.arange(ROWS)[:, None].expand(ROWS, CONTEXT))
    found = meter.finish("sae").scalars
    for name, value in (BEHAVIOUR | PERFORMANCE).items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_its_ablated_model_guesses_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uniform:
        """Makes the same logits of everything, as Gemma does of zeros."""

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(hidden), VOCABULARY)

    monkeypatch.setattr(splicing, "LOGIT_BYTES", 4 * VOCABULARY)
    ce, _ = Comparison(Uniform())({CLEAN: torch.ones(1, 2), ABLATION: torch.zeros(1, 2)}, torch.tensor([5]))[ABLATION]
    assert float(ce.bfloat16()) == PERFORMANCE["ce_loss_with_ablation"]


def test_its_mse_is_its_norm_squared_over_the_tokens_of_a_batch() -> None:
    """Norms that spread a little around the recorded mean give the recorded `mse`."""
    mean = METRICS["shrinkage"]["l2_norm_in"]
    spread = (METRICS["reconstruction_quality"]["mse"] * KEPT - mean**2) ** 0.5
    document = np.zeros((ROWS, CONTEXT), np.int32)
    document[:, 0] = document[0, 60] = document[1, 60] = -1
    x = torch.zeros(ROWS, CONTEXT, 2)
    norms = torch.full((KEPT,), mean) + spread * torch.tensor([1.0, -1.0]).repeat(KEPT // 2)
    x[torch.as_tensor(document >= 0)] = torch.stack([norms, torch.zeros(KEPT)], dim=1)
    store = MemoryStore(x, document, document)
    found = sparsity_variance({"sae": dead_sae(2, 4)}, store, 1, [np.arange(ROWS)])["sae"].scalars
    assert found["mse"] == pytest.approx(METRICS["reconstruction_quality"]["mse"], rel=1e-4)
    assert found["l2_norm_in"] == pytest.approx(mean, rel=1e-6)
    assert found["mse_saelens"] == pytest.approx(found["mse"] * KEPT, rel=1e-9)
    for group in ("sparsity", "shrinkage"):
        for name, value in METRICS[group].items():
            expected = {"nan_ok": True} if value == -1 else {}
            assert found[name] == pytest.approx(float("nan") if value == -1 else value, rel=1e-6, **expected), name
