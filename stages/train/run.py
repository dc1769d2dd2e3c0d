"""The folder of one training: what is in it before, while and after it runs."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.sae import files as sae_files
from stages.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from stages.train.config import TrainConfig
from stages.train.identity import fingerprint
from stages.train.metrics import has_row
from stages.train.plan import TrainPlan, check_plan, make_plan
from stages.train.rates import Rates
from stages.train.trainer import Trainer
from store import ActivationStore
from store.files import file_sha256, remove_partials, write_json
from store.layout import hook_name
from store.problem import Problem
from store.progress import Progress

PLAN, TRAINING, SAE, METRICS = "plan.json", "training.json", "sae", "metrics"


@dataclass(frozen=True)
class TrainResult:
    """What a call of `train` did."""

    folder: Path
    """The run."""
    training: dict[str, Any]
    """The content of `training.json`."""
    first_step: int
    """Steps that earlier calls had done."""

    @property
    def did(self) -> str:
        """`finished before`, `resumed and finished` or `trained`."""
        if self.first_step == self.training["steps_done"]:
            return "finished before"
        return "resumed and finished" if self.first_step else "trained"

    def facts(self) -> dict[str, object]:
        """The run for a person to read; metrics are those of the last step's batch."""
        final = self.training["final"]
        stopped = {"stopped by": self.training["stopped_by"]} if self.training["stopped_by"] else {}
        return {
            "steps planned": self.training["steps_planned"],
            "steps done": self.training["steps_done"],
            **stopped,
            "tokens": self.training["tokens"],
            "explained variance": round(final["explained_variance"], 4),
            "L0": round(final["l0"], 1),
            "dead latents": int(final["dead_latents"]),
        }


@dataclass(frozen=True)
class Run:
    """One training and where it lives."""

    config: TrainConfig
    """What to train."""
    store: ActivationStore
    """On what."""
    layer: int
    """On which layer of it."""
    folder: Path
    """Where it is kept."""
    identity: str
    """Its fingerprint."""

    @classmethod
    def of(cls, config: TrainConfig, store: ActivationStore, layer: int, folder: Path) -> Run:
        """The run of a training that can work. Raises a Problem for one that cannot."""
        check_plan(config, store, layer)
        return cls(config, store, layer, folder, fingerprint(config, store.root, layer))

    def finished(self) -> TrainResult | None:
        """What the folder holds if it is this run, finished, with files as they were written."""
        try:
            facts: dict[str, Any] = json.loads((self.folder / TRAINING).read_text(encoding="utf-8"))
            whole = all(file_sha256(self.folder / name) == sha256 for name, sha256 in facts["files"].items())
            ours = facts["fingerprint"] == self.identity and facts["final"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return TrainResult(self.folder, facts, facts["steps_done"]) if whole and ours else None

    def prepare(self, replace: bool, progress: Progress) -> TrainPlan:
        """The plan of the run in the folder, or of a new one after whatever else is there has been removed."""
        recorded = self._recorded_plan()
        if recorded is not None and recorded[0] == self.identity:
            remove_partials(self.folder)
            plan = TrainPlan(**recorded[1])
            plan.check_machine(self.folder)
            return plan
        if self.folder.exists() and any(self.folder.iterdir()):
            ours = recorded is not None or (self.folder / TRAINING).exists()
            if not (ours and replace):
                raise Problem(
                    f"The output folder holds {'another training' if ours else 'something that is no training'}.",
                    where=self.folder,
                    do="name another folder, or delete it",
                )
            progress.note(f"Replacing {self.folder}: it was trained with other parameters, data or code.")
            shutil.rmtree(self.folder)
        plan = make_plan(self.config.steps, self.config.batch_rows * self.store.context)
        write_json(self.folder / PLAN, {"fingerprint": self.identity, "plan": asdict(plan)})
        return plan

    def _recorded_plan(self) -> tuple[str, dict[str, Any]] | None:
        """The fingerprint and the plan of the training in the folder; None where there is none that can be read."""
        try:
            recorded = json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
            return str(recorded["fingerprint"]), dict(recorded["plan"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def resume(self, trainer: Trainer) -> int:
        """Load the run's checkpoint, if there is one and the log of the steps before it; returns the steps done."""
        checkpoint = read_checkpoint(self.folder)
        if checkpoint is None or checkpoint.fingerprint != self.identity:
            return 0
        logged = (checkpoint.step - 1) // self.config.log_every * self.config.log_every
        if not has_row(self.folder / METRICS, logged):
            return 0
        trainer.load_state(checkpoint.tensors)
        return checkpoint.step

    def keep(self, trainer: Trainer, done: int) -> None:
        """Replace the run's checkpoint."""
        write_checkpoint(self.folder, Checkpoint(done, self.identity, trainer.state()))

    def finish(self, trainer: Trainer, plan: TrainPlan, done: int, final: dict[str, float]) -> dict[str, Any]:
        """Write the SAE and, last of all, the facts that make the run a finished one."""
        config, store, folder = self.config, self.store, self.folder
        metadata = {
            "model_name": store.request.get("model", {}).get("name"),
            "hook_name": hook_name(self.layer),
            "context_size": store.context,
            "variant": config.variant.name,
            "seed": config.seed,
            "store_root": store.root,
            "training_fingerprint": self.identity,
        }
        sae_files.save(folder / SAE, trainer.sae, trainer.normalisation, metadata)
        kept = [f"{SAE}/{name}" for name in (sae_files.CONFIG, sae_files.WEIGHTS)]
        facts = {
            "format": "tsae-training",
            "version": 2,
            "fingerprint": self.identity,
            "variant": config.variant.name,
            "row": asdict(config.variant),
            "seed": config.seed,
            "steps_planned": plan.steps,
            "steps_done": done,
            "stopped_by": trainer.stopping.rule if done < plan.steps else None,
            "tokens": trainer.tokens,
            "batch_rows": config.batch_rows,
            "context": store.context,
            "d_in": trainer.sae.d_in,
            "d_sae": config.d_sae,
            "k": config.k if "topk" in config.variant.sparsifier.kind else None,
            "layer": self.layer,
            "hook_name": metadata["hook_name"],
            "model_name": metadata["model_name"],
            "store_root": store.root,
            "final": final,
            "plan": asdict(plan),
            "files": {name: file_sha256(folder / name) for name in kept},
        }
        write_json(folder / TRAINING, facts)
        return facts

    def rates(self, first: int) -> Rates:
        """Where its time goes, from step `first` on."""
        return Rates(
            self.folder.with_name(f"{self.folder.name}.run.json"),
            {"host": platform.node(), "store": str(self.store.path.absolute())},
            self.config.batch_rows * self.store.context,
            self.config.log_every,
            first,
        )
