"""The core evaluation of one SAE: SAEBench's JSON, and flat numbers.

All is a function of what was evaluated alone, so that evaluating again changes no byte: `eval_id` is a UUID of the
fingerprint, `datetime_epoch_millis` is 0, and the clock goes to `<folder>.run.json` beside the folder.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.evaluate.batches import Batches
from stages.evaluate.core.definitions import DEFINITIONS, LATENTS, SCALARS
from stages.evaluate.core.features import latent_metrics, misc_metrics, other_latent_metrics
from stages.evaluate.core.splicing import Splicing
from stages.evaluate.core.variance import Variance
from stages.evaluate.replicates import kept
from stages.evaluate.standard_error import standard_error
from stages.evaluate.subject import Subject, named
from stages.language_model.model import LanguageModel
from stages.sae.model import SAE
from store import ActivationStore

DECIMALS = 10
"""To which SAEBench rounds the metrics of single latents."""
WITH_DOCUMENTS = "with_documents"
"""Suffix of the numbers of a temporal SAE that is told documents, where those without are SAEBench's own."""

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
class Material:
    """What an evaluation ran on."""

    dataset: str
    """Name of the text."""
    context: int
    """Positions a row."""
    batches: Batches
    """Which rows."""
    model: Mapping[str, str]
    """Name, dtype and attention implementation of the language model as it ran."""
    facts: Mapping[str, Any]
    """Where rows and activations came from."""

    @classmethod
    def of_store(cls, store: ActivationStore, batches: Batches, lm: LanguageModel) -> Material:
        """Heldout rows of a store."""
        facts = {
            "root": store.root,
            "context": store.context,
            "n_sequences": store.n_sequences,
            "dtype": store.dtype,
            "request": store.request,
            "plan": store.plan,
        }
        dataset = str(store.request["corpus"]["source"])
        return cls(dataset, store.context, batches, model_facts(lm), {"store": facts})


def model_facts(lm: LanguageModel) -> dict[str, str]:
    """Name, dtype and attention implementation."""
    return {"name": lm.name, "dtype": str(lm.dtype).removeprefix("torch."), "attention": lm.attention}


@dataclass(frozen=True)
class Reading:
    """The metrics of an SAE in one way of giving it rows."""

    variance: Variance
    """Sparsity and variance metrics, and firings of latents."""
    splicing: Splicing
    """Metrics of the spliced language model."""

    @property
    def scalars(self) -> dict[str, float]:
        """By SAEBench's names, and those in `definitions`."""
        return self.variance.scalars | self.splicing.scalars

    @property
    def replicates(self) -> dict[str, Float[np.ndarray, " replicates"]]:
        """Of these numbers in the bootstrap over documents, by the names of `summary.json`."""
        return self.variance.replicates | self.splicing.replicates

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors, by the same names."""
        return {name: standard_error(values) for name, values in self.replicates.items()}

    def metrics(self, latents: Mapping[str, Float[Tensor, " d_sae"]]) -> dict[str, dict[str, float]]:
        """SAEBench's categories, but for the counts of tokens."""
        found = {
            category: {name: finite(self.scalars[name]) for name in names} for category, names in CATEGORIES.items()
        }
        return found | {"misc_metrics": {name: finite(v) for name, v in misc_metrics(latents).items()}}

    def others(self) -> dict[str, Any]:
        """What SAEBench has no place for: numbers with their definitions, standard errors, replicates, counts."""
        latents = other_latent_metrics(self.variance)
        return {
            "other_definitions": {
                name: {"value": finite(self.scalars[name]), "definition": text} for name, text in SCALARS.items()
            },
            "other_latent_metrics": {
                name: {"values": rounded(values), "definition": LATENTS[name]} for name, values in latents.items()
            },
            "dead_latents": self.variance.dead_latents,
            "standard_errors": {name: finite(value) for name, value in self.errors.items()},
            "replicates": kept(self.replicates),
            "tokens": {"reconstruction": self.splicing.tokens, "sparsity_variance": self.variance.tokens},
        }

    def summary(self) -> dict[str, float]:
        """Flat numbers; NaN for one that does not exist. Explained variances are all named in full. `l0` counts events,
        `l0_codes` (SAEBench's) what the decoder reads: they differ where codes are dense by construction."""
        variance = self.variance.scalars
        levels = {
            f"level{i}_{name}": value for i, level in enumerate(self.variance.levels) for name, value in level.items()
        }
        return {
            "explained_variance_centred": variance["explained_variance_centred"],
            "explained_variance_saebench": variance["explained_variance"],
            "explained_variance_saelens": variance["explained_variance_saelens"],
            "explained_variance_legacy": variance["explained_variance_legacy"],
            "mse_saebench": variance["mse"],
            "mse_saelens": variance["mse_saelens"],
            "l0": variance["l0_events"],
            "l0_codes": variance["l0"],
            "l1_saebench": variance["l1"],
            "l1_saelens": variance["l1_saelens"],
            "latents": len(self.variance.firings.events.tokens),
            "dead_latents": self.variance.dead_latents,
            "cossim": variance["cossim"],
            "l2_ratio": variance["l2_ratio"],
            "l2_norm_in": variance["l2_norm_in"],
            "l2_norm_out": variance["l2_norm_out"],
            "relative_reconstruction_bias": variance["relative_reconstruction_bias"],
            **levels,
            **self.splicing.scalars,
            **{f"{name}_se": value for name, value in self.errors.items()},
            "variance_tokens": self.variance.tokens,
            "reconstruction_tokens": self.splicing.tokens,
        }


@dataclass(frozen=True)
class Core:
    """The core evaluation of one SAE."""

    subject: Subject
    """What was evaluated."""
    sae: SAE
    """The same, loaded."""
    decided: Mapping[str, Any]
    """What decided the numbers, but for the code."""
    material: Material
    """On what."""
    reading: Reading
    """What was measured."""
    with_documents: Reading | None = None
    """The same with documents told, of an SAE to which that makes a difference, where `reading` is without."""

    def document(self, fingerprint: str) -> dict[str, Any]:
        """The result in SAEBench's schema; what has no place there is in `eval_result_unstructured`."""
        latents = latent_metrics(self.sae, self.reading.variance)
        positions = self.material.batches.batch_rows * self.material.context
        stats = {
            "total_tokens_eval_reconstruction": positions * len(self.material.batches.reconstruction),
            "total_tokens_eval_sparsity_variance": positions * len(self.material.batches.variance),
        }
        release, sae_id = self.subject.ids
        return {
            "eval_type_id": "core",
            "eval_config": self._config(),
            "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, fingerprint)),
            "datetime_epoch_millis": 0,
            "eval_result_metrics": self.reading.metrics(latents) | {"token_stats": stats},
            "eval_result_details": latent_details(latents),
            "eval_result_unstructured": {
                "fingerprint": fingerprint,
                "decided": dict(self.decided),
                **self.reading.others(),
                "reading": self._read_with(),
                **self._other_reading(),
                "training": self.subject.facts,
                "language_model": self.material.model,
                **self.material.facts,
            },
            "sae_bench_commit_hash": DEFINITIONS,
            "sae_lens_id": sae_id,
            "sae_lens_release_id": release,
            "sae_lens_version": named(self.subject.sae_config, "sae_lens_version"),
            "sae_cfg_dict": self.subject.sae_config,
        }

    def _read_with(self) -> str:
        """What the SAE was told of documents for the numbers under SAEBench's names."""
        if not self.sae.row.ordered:
            return "token by token"
        return "rows as one document each, as SAEBench passes them" if self.with_documents else "with documents"

    def _other_reading(self) -> dict[str, Any]:
        other = self.with_documents
        if other is None:
            return {}
        metrics = other.metrics(latent_metrics(self.sae, other.variance))
        return {WITH_DOCUMENTS: {"eval_result_metrics": metrics, **other.others()}}

    def _config(self) -> dict[str, Any]:
        flags = (
            "kl ce_loss l2_norms sparsity_metrics variance_metrics featurewise_density_statistics "
            "featurewise_weight_based_metrics"
        )
        return {
            "model_name": self.material.model["name"],
            "llm_dtype": self.material.model["dtype"],
            "batch_size_prompts": self.material.batches.batch_rows,
            "n_eval_reconstruction_batches": len(self.material.batches.reconstruction),
            "n_eval_sparsity_variance_batches": len(self.material.batches.variance),
            "dataset": self.material.dataset,
            "context_size": self.material.context,
            "exclude_special_tokens_from_reconstruction": True,
            "verbose": False,
            **{f"compute_{flag}": True for flag in flags.split()},
        }

    def summary(self) -> dict[str, float]:
        """Flat numbers; NaN for one that does not exist."""
        facts, other = self.subject.facts, self.with_documents
        return {
            "steps_planned": facts.get("steps_planned", math.nan),
            "steps_done": facts.get("steps_done", math.nan),
            "training_tokens": facts.get("tokens", math.nan),
            **self.reading.summary(),
            **({f"{name}_{WITH_DOCUMENTS}": value for name, value in other.summary().items()} if other else {}),
        }


def finite(value: float) -> float:
    """-1 for a number that does not exist, as SAEBench writes it."""
    return value if math.isfinite(value) else -1.0


def rounded(values: Float[Tensor, " d_sae"]) -> list[float]:
    """A metric of single latents as SAEBench writes it."""
    return [round(finite(value), DECIMALS) for value in torch.as_tensor(values).tolist()]


def latent_details(latents: Mapping[str, Float[Tensor, " d_sae"]]) -> list[dict[str, float]]:
    """SAEBench's list of latents."""
    rows = zip(*map(rounded, latents.values()), strict=True)
    return [{"index": i} | dict(zip(latents, row, strict=True)) for i, row in enumerate(rows)]
