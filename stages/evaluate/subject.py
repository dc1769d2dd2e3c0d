"""What can be evaluated: an SAE, where it belongs, and what is known of its making."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.language_model.model import LanguageModel
from stages.sae.architecture import SparsifierRow
from stages.sae.build import Blueprint
from stages.sae.model import SAE
from store import ActivationStore
from store.problem import Problem


class Subject(ABC):
    """An SAE on disk that reads one layer of a store."""

    facts: Mapping[str, Any]
    """What is known of its making: `d_in` and `d_sae`, `model_name` where its files say it; steps and tokens only of a
    training of this package."""
    sae_config: Mapping[str, Any]
    """`cfg.json` in SAELens's format; empty where there is none."""

    @property
    def name(self) -> str:
        """How tables and messages call it."""
        release, sae_id = self.ids
        return f"{release}/{sae_id}"

    @property
    @abstractmethod
    def ids(self) -> tuple[str, str]:
        """Release and id, as SAELens and SAEBench would name it: the variant and the seed of a training."""

    @property
    @abstractmethod
    def layer(self) -> int:
        """Layer of the store that it reads."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """sha256 of the files that the evaluation reads: equal SAEs need one evaluation."""

    @abstractmethod
    def check_store(self, store: ActivationStore) -> None:
        """A Problem unless it belongs to a layer of this store."""

    def check_model(self, lm: LanguageModel) -> None:
        """A Problem unless it reads a layer of a model of this name and width."""
        named = self.facts["model_name"]
        if named is not None and base_name(named) != base_name(lm.name):
            raise Problem(
                f"{self.name} is of another language model.",
                expected=lm.name,
                found=named,
                do="name its model with --model, or a profile of it with --profile",
            )
        if self.layer >= lm.n_layers or self.facts["d_in"] != lm.d_model:
            raise Problem(
                f"{self.name} reads activations that this language model does not have.",
                where=lm.name,
                expected=f"one of {lm.n_layers} layers of width {lm.d_model}",
                found=f"layer {self.layer} of width {self.facts['d_in']}",
                do="name its model with --model, or a profile of it with --profile",
            )

    @property
    @abstractmethod
    def levels(self) -> Sequence[int]:
        """How many latents each Matryoshka level uses; empty without levels."""

    @abstractmethod
    def blueprint(self, sae: SAE, l0: float) -> Blueprint:
        """What makes an untrained SAE of its kind that activates `l0` latents on a token, as the trained one does.

        Untrained, half of the pre-activations are positive: at their L0 a ReLU SAE would be stable from token to token
        for that alone.
        """

    @abstractmethod
    def load(self) -> SAE:
        """The SAE, working on raw activations."""

    def load_for(
        self, length: int, rows: str = "these rows", do: str = "choose a store, or a profile, of a smaller context"
    ) -> SAE:
        """The SAE; a Problem unless it knows the positions of rows of such a length."""
        sae = self.load()
        if (sae.row.position or sae.row.gate) and sae.context < length:
            raise Problem(
                f"{self.name} knows fewer positions than {rows} have.",
                expected=f"{sae.context} positions at the most",
                found=length,
                do=do,
            )
        return sae


def as_sparse(row: SparsifierRow, k: int, l0: float) -> tuple[SparsifierRow, int]:
    """A sparsifier that activates `l0` latents on a token, and its k: the same one where k decides, else BatchTopK."""
    return (row, k) if row.kind in ("topk", "batchtopk") else (SparsifierRow(kind="batchtopk"), max(1, round(l0)))


def base_name(model: str) -> str:
    """A model's name without its owner, as names in different places have it."""
    return model.rsplit("/", 1)[-1].lower()


def read_object(path: Path, what: str, do: str | None = None) -> dict[str, Any]:
    """The JSON object of a file, whose numbers are those of JSON; a Problem that says `what` where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise Problem(what, where=path, found=error, do=do) from None
    if not isinstance(found, dict):
        raise Problem(what, where=path, expected="a JSON object", found=type(found).__name__, do=do)
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def named(config: Mapping[str, Any], key: str) -> str | None:
    """From the metadata, where SAELens has kept it since version 6, or beside it as before."""
    metadata = config.get("metadata")
    value = (metadata.get(key) if isinstance(metadata, dict) else None) or config.get(key)
    return None if value is None else str(value)
