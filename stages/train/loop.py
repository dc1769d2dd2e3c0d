"""The training loop: steps one training, or several in lockstep from one stream of windows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from stages.memory import keep_freed_memory
from stages.sae.normalisation import Normalisation
from stages.train.config import TrainConfig
from stages.train.guards import CollapseGuard
from stages.train.metrics import MetricsLog
from stages.train.plan import TrainPlan
from stages.train.run import METRICS, Run, TrainResult
from stages.train.trainer import Trainer, following
from store import ActivationStore
from store.lock import Lock
from store.progress import SILENT, Progress
from store.windows import WindowBatch

HELD_OUT_BATCHES = 4
"""Batches of held-out windows, always the same, that early stopping looks at."""


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
    (result,) = train_together([Run.of(config, store, layer, folder)], progress, replace=replace)
    if isinstance(result, Exception):
        raise result
    return result


def train_together(
    runs: Sequence[Run], progress: Progress = SILENT, *, replace: bool = True
) -> list[TrainResult | Exception]:
    """Train several runs as `train` would each, reading every batch of windows once for all of them.

    They share store, layer, seed and batch size. A run that fails, or cannot begin because another process is at it or
    this machine cannot follow its plan, leaves the others as they are, and its exception takes the place of its
    result. Runs that were interrupted at different steps wait for the last one.

    Raises:
        ValueError: the runs do not share their windows.
    """
    if len({(run.store.root, run.layer, run.config.seed, run.config.batch_rows) for run in runs}) > 1:
        raise ValueError("trainings in lockstep need one store, layer, seed and batch size")
    results: dict[Run, TrainResult | Exception] = {run: done for run in runs if (done := run.finished()) is not None}
    with ExitStack() as held:
        members = []
        for run in [run for run in runs if run not in results]:
            try:
                held.callback(Lock(run.folder, "training").release)
                members.append(Member(run, run.prepare(replace, progress)))
            except Exception as error:
                results[run] = error
        if members:
            keep_freed_memory()
            _step_together(members, progress)
            results |= {member.run: member.finish() for member in members}
    return [results[run] for run in runs]


def _step_together(members: Sequence[Member], progress: Progress) -> None:
    """Step every member to its end; those that are behind first."""
    run = members[0].run
    windows = run.store.windows(run.layer, "train", run.config.batch_rows, run.config.seed)
    names = ", ".join(member.run.config.variant.name for member in members)
    steps, done = (sum(counts) for counts in zip(*((m.run.config.steps, m.done) for m in members), strict=True))
    progress.start(f"train {names} seed {run.config.seed}", steps, "steps", done)
    while active := [member for member in members if member.running]:
        step = min(member.done for member in active)
        batch = windows.batch(step)
        for member in active:
            if member.done == step:
                member.step(batch)
                progress.advance(1)


class Member:
    """One training among those that step together."""

    def __init__(self, run: Run, plan: TrainPlan) -> None:
        """Begin it, or go on where its checkpoint is."""
        self.run, self.plan = run, plan
        config = run.config
        statistics = run.store.statistics(run.layer)
        normalisation = Normalisation(torch.tensor(statistics.mean), statistics.scale)
        self.trainer = Trainer(config, plan, normalisation, run.store.context)
        self.first = self.done = run.resume(self.trainer)
        """Steps done before and now."""
        self.rates = run.rates(self.first)
        self.failure: Exception | None = None
        """What ended it before its time."""
        self.guard = CollapseGuard(config.variant, config.d_sae, config.steps)
        self.log = MetricsLog(run.folder / METRICS, self.first)
        self.held_out = _held_out(run) if config.variant.stopping else []

    @property
    def running(self) -> bool:
        """Whether it has steps left to do."""
        return self.failure is None and self.done < self.run.config.steps and not self.trainer.stopping.now

    def step(self, windows: WindowBatch) -> None:
        """Do a step, with the threads of its own plan; an exception ends this training alone."""
        begun = time.perf_counter()
        try:
            with following(self.plan):
                self._step(windows)
        except Exception as error:  # whatever it is, the others must not pay for it; `train` raises it again
            self.failure = error
        self.rates.add(time.perf_counter() - begun)
        if self.failure is None and self.done % self.run.config.checkpoint_every == 0:
            self.rates.write()

    def _step(self, windows: WindowBatch) -> None:
        config, step, stopping = self.run.config, self.done, self.trainer.stopping
        look = stopping.due(step + 1)
        last = step == config.steps - 1
        logged = last or look or step % config.log_every == 0
        guarded = last or (step + 1) % config.guard_every == 0
        metrics = self.trainer.step(step, windows, measured=logged or guarded)
        if look:
            loss = self.trainer.held_out_loss(self.held_out)
            stopping.look(loss)
            metrics["held_out_reconstruction"] = loss
        if logged:
            self.log.log(step, metrics)
        if guarded:
            self.guard.check(step, metrics)
        self.done += 1
        if last or stopping.now or self.done % config.checkpoint_every == 0:
            self.run.keep(self.trainer, self.done)

    def finish(self) -> TrainResult | Exception:
        """Leave the finished run behind. What prevents it, then or before, is returned: the others must not pay."""
        if self.failure is not None:
            return self.failure
        try:
            return self._finish()
        except Exception as error:
            return error

    def _finish(self) -> TrainResult:
        facts = self.run.finish(self.trainer, self.plan, self.done, self.log.latest())
        self.rates.write()
        return TrainResult(self.run.folder, facts, self.first)


def _held_out(run: Run) -> list[WindowBatch]:
    """The windows that early stopping looks at."""
    rows = min(run.config.batch_rows, len(run.store.rows("heldout")))
    windows = run.store.windows(run.layer, "heldout", rows, seed=0)
    return [windows.batch(index) for index in range(min(HELD_OUT_BATCHES, len(run.store.rows("heldout")) // rows))]
