"""One evaluation as files: SAEBench's core JSON, temporal metrics, probes, and flat numbers for DVC.

All are functions of what was evaluated alone, so that evaluating again changes no byte: `eval_id` is a
UUID of the evaluation's fingerprint, `datetime_epoch_millis` is 0, and the clock goes to
`<folder>.run.json` beside the folder.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from stages.evaluate.consistency import SCALES
from stages.evaluate.features import misc_metrics
from stages.evaluate.heldout import HeldoutBatches
from stages.evaluate.levels import levels_of
from stages.evaluate.probing import Probing
from stages.evaluate.splicing import Splicing
from stages.evaluate.subject import Subject
from stages.evaluate.temporal import Temporal
from stages.evaluate.variance import Variance
from store import ActivationStore

DEFINITIONS = "tsae-pipeline, by the definitions of SAEBench 0.6.0"
"""Stands where SAEBench writes the commit of the folder that it was started in."""
DECIMALS = 10
"""To which SAEBench rounds the metrics of single latents."""

CATEGORIES = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
}
"""SAEBench's grouping of the scalars."""


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one run."""

    fingerprint: str
    """Digest of everything that decided the numbers."""
    subject: Subject
    """What was evaluated."""
    variance: Variance
    """Sparsity and variance metrics."""
    splicing: Splicing
    """Metrics of the spliced language model."""
    temporal: Temporal
    """Temporal metrics, their nulls and references."""
    probing: Probing
    """Its probes."""
    latents: dict[str, Float[Tensor, " d_sae"]]
    """Metrics of single latents by SAEBench's names."""
    batches: HeldoutBatches
    """Which rows were used."""
    model: dict[str, str]
    """Name, dtype and attention implementation of the language model as it ran."""

    def core(self, store: ActivationStore) -> dict[str, Any]:
        """The result in SAEBench's schema; what has no place there is in `eval_result_unstructured`."""
        scalars = self.variance.scalars | self.splicing.scalars
        metrics = {category: {name: finite(scalars[name]) for name in names} for category, names in CATEGORIES.items()}
        metrics["misc_metrics"] = {name: finite(v) for name, v in misc_metrics(self.latents).items()}
        positions = self.batches.batch_rows * store.context
        release, sae_id = self.subject.ids
        metrics["token_stats"] = {
            "total_tokens_eval_reconstruction": positions * len(self.batches.reconstruction),
            "total_tokens_eval_sparsity_variance": positions * len(self.batches.variance),
        }
        return {
            "eval_type_id": "core",
            "eval_config": self._config(store),
            "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, self.fingerprint)),
            "datetime_epoch_millis": 0,
            "eval_result_metrics": metrics,
            "eval_result_details": latent_details(self.latents),
            "eval_result_unstructured": self._unstructured(store),
            "sae_bench_commit_hash": DEFINITIONS,
            "sae_lens_id": sae_id,
            "sae_lens_release_id": release,
            "sae_lens_version": self.subject.sae_config.get("metadata", {}).get("sae_lens_version"),
            "sae_cfg_dict": self.subject.sae_config,
        }

    def _config(self, store: ActivationStore) -> dict[str, Any]:
        flags = (
            "kl ce_loss l2_norms sparsity_metrics variance_metrics featurewise_density_statistics "
            "featurewise_weight_based_metrics"
        )
        return {
            "model_name": self.model["name"],
            "llm_dtype": self.model["dtype"],
            "batch_size_prompts": self.batches.batch_rows,
            "n_eval_reconstruction_batches": len(self.batches.reconstruction),
            "n_eval_sparsity_variance_batches": len(self.batches.variance),
            "dataset": str(store.request["corpus"]["source"]),
            "context_size": store.context,
            "exclude_special_tokens_from_reconstruction": True,
            "verbose": False,
            **{f"compute_{flag}": True for flag in flags.split()},
        }

    def _unstructured(self, store: ActivationStore) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "explained_variance_centred": finite(self.variance.scalars["explained_variance_centred"]),
            "dead_latents": self.variance.dead_latents,
            "standard_errors": {name: finite(value) for name, value in self.splicing.errors.items()},
            "tokens": {"reconstruction": self.splicing.tokens, "sparsity_variance": self.variance.tokens},
            "training": self.subject.facts,
            "language_model": self.model,
            "store": {
                "root": store.root,
                "context": store.context,
                "n_sequences": store.n_sequences,
                "dtype": store.dtype,
                "request": store.request,
                "plan": store.plan,
            },
        }

    def summary(self) -> dict[str, float | int | None]:
        """Flat numbers; one that does not exist is None. Explained variances are all named in full. `l0` counts events,
        `l0_codes` (SAEBench's) what the decoder reads: they differ where codes are dense by construction."""
        variance, splicing = self.variance.scalars, self.splicing.scalars
        errors = {f"{name}_se": value for name, value in self.splicing.errors.items()}
        numbers = {
            "steps_planned": self.subject.facts.get("steps_planned", math.nan),
            "steps_done": self.subject.facts.get("steps_done", math.nan),
            "training_tokens": self.subject.facts.get("tokens", math.nan),
            "explained_variance_centred": variance["explained_variance_centred"],
            "explained_variance_saebench": variance["explained_variance"],
            "explained_variance_legacy": variance["explained_variance_legacy"],
            "l0": variance["l0_events"],
            "l0_codes": variance["l0"],
            "latents": len(self.variance.density),
            "dead_latents": self.variance.dead_latents,
            "cossim": variance["cossim"],
            "l2_ratio": variance["l2_ratio"],
            **{
                f"level{i}_{name}": value
                for i, level in enumerate(self.variance.levels)
                for name, value in level.items()
            },
            **splicing,
            **errors,
            **self.temporal.summary(),
            **self.probing.summary(),
            "variance_tokens": self.variance.tokens,
            "reconstruction_tokens": self.splicing.tokens,
        }
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def facts(summary: Mapping[str, float | int | None]) -> dict[str, object]:
    """The numbers of a summary that a person reads first, formatted."""

    def number(name: str, form: str) -> str:
        value = summary.get(name)
        return "does not exist" if value is None else format(value, form)

    return {
        "steps": f"{number('steps_done', ',')} of {number('steps_planned', ',')}",
        "explained variance": f"{number('explained_variance_centred', '.4f')} (centred, heldout)",
        "L0": number("l0", ".1f"),
        **{level.title: level.text for level in levels_of(summary)},
        "dead latents": f"{number('dead_latents', ',')} of {number('latents', ',')}",
        "CE score": f"{number('ce_loss_score', '.4f')} ± {number('ce_loss_score_se', '.4f')}",
        "KL score": f"{number('kl_div_score', '.4f')} ± {number('kl_div_score_se', '.4f')}",
        **{
            f"TCS {scale}": f"{number(f'tcs_{scale}', '.4f')} ± {number(f'tcs_{scale}_se', '.4f')} "
            f"(inputs permuted {number(f'tcs_{scale}_inputs_permuted', '.4f')})"
            for scale in SCALES
        },
        "tokens": f"{number('variance_tokens', ',')} for variance and sparsity, "
        f"{number('reconstruction_tokens', ',')} others through the language model",
    }


def finite(value: float) -> float:
    """-1 for a number that does not exist, as SAEBench writes it."""
    return value if math.isfinite(value) else -1.0


def latent_details(latents: dict[str, Float[Tensor, " d_sae"]]) -> list[dict[str, float]]:
    """SAEBench's list of latents."""
    columns = {name: values.tolist() for name, values in latents.items()}
    rows = zip(*columns.values(), strict=True)
    return [
        {"index": i} | {name: round(finite(value), DECIMALS) for name, value in zip(columns, row, strict=True)}
        for i, row in enumerate(rows)
    ]
