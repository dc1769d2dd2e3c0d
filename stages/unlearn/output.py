"""An unlearning as a file: SAEBench's schema, with the whole sweep beside the score."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.evaluate.core.definitions import DEFINITIONS
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.sweep import Outcome, unlearning_score
from store.files import digest


def digits_name(fingerprint: str) -> str:
    """What the results on a material of the command line's are called."""
    return f"unlearning-{fingerprint[:8]}.json"


@dataclass(frozen=True)
class Unlearning:
    """What an unlearning of one SAE came to."""

    decided: Mapping[str, Any]
    """Everything that decided the numbers."""
    ids: tuple[str, str]
    """Release and id of the SAE."""
    sae_config: Mapping[str, Any]
    """`cfg.json` of the SAE; empty for RMU."""
    model: Mapping[str, str]
    """Name and dtype of the language model."""
    config: UnlearnConfig
    """What was asked."""
    material: Mapping[str, Any]
    """Sizes of texts; of each set how many questions there are, how many are answered rightly and are known."""
    baseline: Outcome
    """The untouched model on the known questions."""
    outcomes: Sequence[tuple[Mapping[str, Any], Outcome]]
    """The sweep: what was done, and what it did."""

    @property
    def fingerprint(self) -> str:
        """Digest of what decided the numbers."""
        return digest(self.decided)

    @property
    def scores(self) -> dict[int, float]:
        """SAEBench's score by the window of the settings: SAEBench's own is 1, as is RMU's, which has none."""
        found: dict[int, list[Outcome]] = {}
        for how, outcome in self.outcomes:
            found.setdefault(how.get("window", 1), []).append(outcome)
        return {window: unlearning_score(outcomes) for window, outcomes in sorted(found.items())}

    def document(self) -> dict[str, Any]:
        """The content of `unlearning.json`."""
        release, sae_id = self.ids
        config = self.config
        return {
            "eval_type_id": "unlearning",
            "eval_config": {
                "random_seed": config.seed,
                "dataset_names": list(self.material["questions"]),
                "retain_thresholds": list(config.retain_thresholds),
                "n_features_list": list(config.n_latents),
                "multipliers": [int(m) if float(m).is_integer() else m for m in config.multipliers],
                "dataset_size": config.rows,
                "seq_len": self.material["context"],
                "model_name": self.model["name"],
                "llm_batch_size": config.batch_rows,
                "llm_dtype": self.model["dtype"],
            },
            "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, self.fingerprint)),
            "datetime_epoch_millis": 0,
            "eval_result_metrics": {"unlearning": {"unlearning_score": self.scores[1]}},
            "eval_result_details": [],
            "eval_result_unstructured": {
                "fingerprint": self.fingerprint,
                "decided": self.decided,
                "scoring": config.scoring,
                "material": self.material,
                "baseline": self.baseline.row(),
                "scores_by_window": {str(window): score for window, score in self.scores.items()},
                "sweep": [{**how, **outcome.row()} for how, outcome in self.outcomes],
            },
            "sae_bench_commit_hash": DEFINITIONS,
            "sae_lens_id": sae_id,
            "sae_lens_release_id": release,
            "sae_lens_version": self.sae_config.get("metadata", {}).get("sae_lens_version"),
            "sae_cfg_dict": self.sae_config,
        }
