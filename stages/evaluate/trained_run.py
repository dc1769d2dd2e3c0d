"""A finished training, as the evaluation reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from stages.evaluate.subject import Subject, as_sparse, read_object
from stages.sae.build import Blueprint
from stages.sae.files import CONFIG, WEIGHTS
from stages.sae.loading import load
from stages.sae.model import SAE
from stages.sae.variant import Variant
from store import ActivationStore
from store.files import digest, file_sha256
from store.problem import Problem

PLAN, TRAINING, SAE_FOLDER = "plan.json", "training.json", "sae"
SAE_FILES = tuple(f"{SAE_FOLDER}/{name}" for name in (CONFIG, WEIGHTS))


@dataclass(frozen=True)
class TrainedRun(Subject):
    """The folder that a training left behind."""

    folder: Path
    """Holds `training.json`, `sae/` and `metrics/`."""
    facts: dict[str, Any]
    """`training.json`."""
    sae_config: dict[str, Any]
    """`sae/cfg.json`, SAELens's format."""

    @classmethod
    def read(cls, folder: Path) -> TrainedRun:
        """Read a run's facts; a Problem where the training is missing or did not finish, or its SAE is not the one that
        it wrote."""
        if not (folder / PLAN).is_file() and not (folder / TRAINING).is_file():
            raise Problem(
                "This is no run.",
                where=folder,
                expected="the folder of a training, or an SAE that SAELens or Gemma Scope saved",
                found="no such folder" if not folder.exists() else f"neither {PLAN} nor {TRAINING} in it",
                do="train it first, or check the path",
            )
        paths = [folder / TRAINING, folder / SAE_FOLDER / CONFIG]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise Problem(
                "This run has not finished training.",
                where=folder,
                expected="training.json and sae/cfg.json",
                found=f"no {' and no '.join(missing)}",
                do="run the same training again: it goes on where it stopped",
            )
        unreadable = "A file of this run cannot be read."
        facts, config = (read_object(path, unreadable, do="train it again") for path in paths)
        _check_files(folder, facts.get("files"))
        return cls(folder, facts, config)

    @property
    def ids(self) -> tuple[str, str]:
        return str(self.facts["variant"]), f"seed{self.facts['seed']}"

    @property
    def layer(self) -> int:
        return int(self.facts["layer"])

    @property
    def identity(self) -> str:
        weights = self.facts["files"][f"{SAE_FOLDER}/{WEIGHTS}"]  # what `read` found them to be
        return digest([self.facts, self.sae_config, weights])

    def check_store(self, store: ActivationStore) -> None:
        if self.facts["store_root"] != store.root:
            raise Problem(
                f"{self.name} was trained on another activation store.",
                where=self.folder,
                expected=f"root digest {self.facts['store_root']}",
                found=f"{store.root} ({store.path})",
                do="name the store that it was trained on with --store, or train on this one",
            )
        if self.layer not in store.layers:
            raise Problem(
                f"{self.name} was trained on layer {self.layer}, which the store does not have.",
                where=store.path,
                expected=f"one of {sorted(store.layers)}",
                found=self.layer,
            )

    def blueprint(self, sae: SAE, l0: float) -> Blueprint:
        facts = self.facts
        sparsifier, k = as_sparse(self._row.sparsifier, facts["k"] or 1, l0)
        row = replace(self._row, sparsifier=sparsifier)
        return Blueprint.of(row, facts["d_in"], facts["d_sae"], k, facts["context"])

    @property
    def levels(self) -> list[int]:
        return self._row.objective.level_widths(self.facts["d_sae"])

    @property
    def _row(self) -> Variant:
        return TypeAdapter(Variant).validate_python(self.facts["row"])

    def load(self) -> SAE:
        return load(self.folder / SAE_FOLDER)


def _check_files(folder: Path, written: Any) -> None:
    """A Problem where the SAE in a run's folder is not the one that its training wrote, by the sha256 of its files."""
    recorded = written if isinstance(written, dict) else {}
    for name in SAE_FILES:
        if (found := file_sha256(folder / name)) != recorded.get(name):
            raise Problem(
                "The SAE of this run is damaged, or not the one that its training wrote.",
                where=folder / name,
                expected=f"sha256 {recorded.get(name)}, by {TRAINING}",
                found=found,
                do="train it again, or copy it again from where it is whole",
            )
