"""The training loop: counts steps, resumes, guards, and leaves a finished run behind."""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stages.sae import files as sae_files
from stages.sae.normalisation import Normalisation
from stages.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from stages.train.config import TrainConfig
from stages.train.guards import CollapseGuard
from stages.train.metrics import MetricsLog
from stages.train.plan import TrainPlan, check_plan, fingerprint, make_plan
from stages.train.trainer import Trainer, following
from store import ActivationStore
from store.files import file_sha256, remove_partials, write_json
from store.layout import hook_name
from store.problem import Problem
from store.progress import SILENT, Progress

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
        return {
            "steps planned": self.training["steps_planned"],
            "steps done": self.training["steps_done"],
            "tokens": self.training["tokens"],
            "explained variance": round(final["explained_variance"], 4),
            "L0": round(final["l0"], 1),
            "dead latents": int(final["dead_latents"]),
        }


def train(
    config: TrainConfig,
    store: ActivationStore,
    layer: int,
    folder: Path,
    progress: Progress = SILENT,
    *,
    replace: bool = True,
) -> TrainResult:
    """Train an SAE on a layer of a store, or finish a training that was interrupted.

    Leaves in `folder` the SAE (`sae/`), the deterministic facts (`training.json`), the metrics log (`metrics/`) and
    the last checkpoint; rates and paths go to `<folder>.run.json`. Resuming gives the bits of an uninterrupted
    run. A run of another fingerprint in `folder` is replaced as a whole, or refused without `replace`.

    Raises:
        Problem: if the training cannot work (before its first step), or this machine cannot follow its plan.
        Collapse: if it produces a dead SAE.
    """
    check_plan(config, store, layer)
    identity = fingerprint(config, store, layer)
    facts = finished_facts(folder, identity)
    if facts is not None:
        return TrainResult(folder, facts, config.steps)
    plan = _prepare(folder, identity, config, store, replace, progress)
    run = Run(config, store, layer, folder, identity)
    with following(plan):
        statistics = store.statistics(layer)
        trainer = Trainer(config, plan, Normalisation(torch.tensor(statistics.mean), statistics.scale))
        first = _resume(trainer, folder, identity)
        started = time.perf_counter()
        done, final = _do_steps(run, trainer, first, progress)
        seconds = time.perf_counter() - started
    facts = _finish(run, trainer, plan, done, final)
    _write_rates(run, config.steps - first, seconds)
    return TrainResult(folder, facts, first)


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


def finished_facts(folder: Path, identity: str) -> dict[str, Any] | None:
    """`training.json` of a finished run of that fingerprint whose files are as they were written."""
    try:
        facts: dict[str, Any] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        whole = all(file_sha256(folder / name) == sha256 for name, sha256 in facts["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return facts if whole and facts["fingerprint"] == identity else None


def _prepare(
    folder: Path,
    identity: str,
    config: TrainConfig,
    store: ActivationStore,
    replace: bool,
    progress: Progress,
) -> TrainPlan:
    """The plan of the run in `folder`, or of a new one after whatever else is there has been removed."""
    recorded = _read_plan(folder)
    if recorded is not None and recorded["fingerprint"] == identity:
        remove_partials(folder)
        plan = TrainPlan(**recorded["plan"])
        plan.check_machine(folder)
        return plan
    if folder.exists() and any(folder.iterdir()):
        ours = recorded is not None or (folder / TRAINING).exists()
        if not (ours and replace):
            raise Problem(
                f"The output folder holds {'another training' if ours else 'something that is no training'}.",
                where=folder,
                do="name another folder, or delete it",
            )
        progress.note(f"Replacing {folder}: it was trained with other parameters, data or code.")
        shutil.rmtree(folder)
    plan = make_plan(config.steps, config.batch_rows * store.context)
    write_json(folder / PLAN, {"fingerprint": identity, "plan": asdict(plan)})
    return plan


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        recorded: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return recorded


def _resume(trainer: Trainer, folder: Path, identity: str) -> int:
    """Load the run's checkpoint, if there is one; returns the steps done."""
    checkpoint = read_checkpoint(folder)
    if checkpoint is None or checkpoint.fingerprint != identity:
        return 0
    trainer.load_state(checkpoint.tensors)
    return checkpoint.step


def _do_steps(run: Run, trainer: Trainer, first: int, progress: Progress) -> tuple[int, dict[str, float]]:
    """Do the steps from `first` on; returns how many are done in all, and the metrics of the last one."""
    done = first
    config = run.config
    windows = run.store.windows(run.layer, "train", config.batch_rows, config.seed)
    guard = CollapseGuard(config.variant, config.d_sae)
    log = MetricsLog(run.folder / METRICS, first)
    progress.start(f"train {config.variant.name} seed {config.seed}", config.steps, "steps", first)
    for step in range(first, config.steps):
        last = step == config.steps - 1
        logged = last or step % config.log_every == 0
        guarded = last or (step + 1) % config.guard_every == 0
        metrics = trainer.step(step, windows.batch(step), measured=logged or guarded)
        if logged:
            log.log(step, metrics)
        if guarded:
            guard.check(step, metrics)
        if last or (step + 1) % config.checkpoint_every == 0:
            write_checkpoint(run.folder, Checkpoint(step + 1, run.identity, trainer.state()))
        done += 1
        progress.advance(1)
    return done, log.latest()


def _finish(run: Run, trainer: Trainer, plan: TrainPlan, done: int, final: dict[str, float]) -> dict[str, Any]:
    """Write the SAE and, last of all, the facts that make the run a finished one."""
    config, store, folder = run.config, run.store, run.folder
    metadata = {
        "model_name": store.request.get("model", {}).get("name"),
        "hook_name": hook_name(run.layer),
        "context_size": store.context,
        "variant": config.variant.name,
        "seed": config.seed,
        "store_root": store.root,
        "training_fingerprint": run.identity,
    }
    sae_files.save(folder / SAE, trainer.sae, trainer.normalisation, metadata)
    kept = [f"{SAE}/{name}" for name in (sae_files.CONFIG, sae_files.WEIGHTS)]
    facts = {
        "format": "tsae-training",
        "version": 1,
        "fingerprint": run.identity,
        "variant": config.variant.name,
        "row": asdict(config.variant),
        "seed": config.seed,
        "steps_planned": plan.steps,
        "steps_done": done,
        "tokens": trainer.tokens,
        "batch_rows": config.batch_rows,
        "d_in": trainer.sae.d_in,
        "d_sae": config.d_sae,
        "k": config.k if config.variant.sparsifier.kind == "topk" else None,
        "layer": run.layer,
        "hook_name": metadata["hook_name"],
        "model_name": metadata["model_name"],
        "store_root": store.root,
        "final": final,
        "plan": asdict(plan),
        "files": {name: file_sha256(folder / name) for name in kept},
    }
    write_json(folder / TRAINING, facts)
    return facts


def _write_rates(run: Run, steps: int, seconds: float) -> None:
    """What varies from call to call, beside the run and outside every digest."""
    tokens = steps * run.config.batch_rows * run.store.context
    write_json(
        run.folder.with_name(f"{run.folder.name}.run.json"),
        {
            "host": platform.node(),
            "store": str(run.store.path.absolute()),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "steps": steps,
            "seconds": seconds,
            "positions_per_second": tokens / seconds if steps else None,
        },
    )
