"""What can be evaluated: an SAE, where it belongs, and what is known of its making."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from stages.sae.build import Blueprint
from stages.sae.model import SAE
from store import ActivationStore


class Subject(ABC):
    """An SAE on disk that reads one layer of a store."""

    facts: Mapping[str, Any]
    """What is known of its making; steps and tokens only of a training of this package."""
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

    @property
    @abstractmethod
    def levels(self) -> Sequence[int]:
        """How many latents each Matryoshka level uses; empty without levels."""

    @abstractmethod
    def blueprint(self, sae: SAE, l0: float) -> Blueprint:
        """What makes an untrained SAE of its kind; `l0` are the latents that the trained one activates on a token."""

    @abstractmethod
    def load(self) -> SAE:
        """The SAE, working on raw activations."""
