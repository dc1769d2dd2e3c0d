"""Run a sweep: train and evaluate its cells, a few together, and go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages.evaluate.config import EvaluateConfig
from stages.evaluate.run import check_model, evaluate
from stages.language_model.config import ModelConfig
from stages.language_model.model import identity
from stages.language_model.source import resolve
from stages.sae.variant import Variant
from stages.sweep.cells import Cell
from stages.sweep.outcome import Outcome
from stages.sweep.table import FILE
from stages.train.guards import Collapse
from stages.train.loop import train_together
from stages.train.run import Run
from store import ActivationStore
from store.files import write_json
from store.problem import Problem
from store.progress import SILENT, Progress

TOGETHER = 4
"""Cells that step together and share the passes of the language model; results come in as often."""
TRAINING, RESULTS, ENDED = "training", "results", "ended.json"
"""In the folder of a cell: its run, its evaluation, what a guard said of it."""


@dataclass(frozen=True)
class Job:
    """A cell and where it lives."""

    cell: Cell
    """What to train."""
    run: Run
    """Its training, in a folder of its own."""

    @property
    def folder(self) -> Path:
        """That of the cell."""
        return self.run.folder.parent

    @property
    def ended(self) -> Outcome | None:
        """What a guard made of it, if one ended this very training."""
        try:
            noted = json.loads((self.folder / ENDED).read_text(encoding="utf-8"))
            if noted["fingerprint"] != self.run.identity:
                return None
            return Outcome(self.cell, summary={}, **noted)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def done(self) -> bool:
        """Whether no step is left to do."""
        return self.ended is not None or self.run.finished() is not None

    def end(self, collapse: Collapse) -> Outcome:
        """Note that a guard ended it, so that the next call does not train it again."""
        outcome = Outcome.of_collapse(self.cell, self.run.identity, collapse)
        kept = ("fingerprint", "steps_done", "collapsed", "ended")
        write_json(self.folder / ENDED, {key: getattr(outcome, key) for key in kept})
        return outcome


def jobs_of(
    cells: Iterable[Cell], store: ActivationStore, layer_of: Callable[[Variant], int], folder: Path
) -> list[Job]:
    """The jobs of a sweep, each below `folder` under its name and fingerprint.

    Raises:
        Problem: a cell cannot be trained, or is the same training as another.
    """
    jobs: dict[str, Job] = {}
    for cell in cells:
        where = f"{FILE}: {folder.name}, {cell.name}"
        layer = layer_of(cell.config.variant)
        try:
            run = Run.of(cell.config, store, layer, Path())
        except Problem as problem:
            # It would name a flag of `pipeline train`; a sweep has the same number in its table.
            wrong = problem.exit_status == 2
            do = "change the sweep, or the row that it starts from" if wrong else problem.do
            raise Problem(
                problem.what, where=where, expected=problem.expected, found=problem.found, do=do, usage=wrong
            ) from None
        if run.identity in jobs:
            other = jobs[run.identity].cell.name
            raise Problem("Two cells are the same training.", where=where, found=f"the numbers of {other}", usage=True)
        place = folder / f"{cell.name}-{run.identity[:8]}" / TRAINING
        jobs[run.identity] = Job(cell, replace(run, folder=place))
    return list(jobs.values())


def run_jobs(
    jobs: Sequence[Job],
    store: str | Path,
    lm_config: ModelConfig,
    config: EvaluateConfig | None = None,
    *,
    progress: Progress = SILENT,
) -> Iterator[tuple[Job, Outcome | Exception]]:
    """Train and evaluate jobs, as far as that is still to be done, and give what each came to as soon as it is known.

    A cell that collapses is a result, and the others go on; so they do where one fails otherwise, and its exception is
    what it came to. Killed at any moment, the next call does what is missing and gives the same.

    Raises:
        Problem: what `evaluate` refuses: it concerns all cells. Another language model than the store's is refused
            before anything is trained.
    """
    if any(not job.done for job in jobs):
        check_model(jobs[0].run.store, lm_config.name, identity(resolve(lm_config, progress)))
    for group in _groups(jobs):
        progress.note(f"cells: {'; '.join(job.cell.name for job in group)}")
        known = {job.run.identity: job.ended for job in group}
        found: dict[str, Outcome | Exception] = {key: ended for key, ended in known.items() if ended is not None}
        waiting = [job for job in group if job.run.identity not in found]
        for job, result in zip(waiting, train_together([job.run for job in waiting], progress), strict=True):
            if isinstance(result, Exception):
                found[job.run.identity] = job.end(result) if isinstance(result, Collapse) else result
        trained = [job for job in group if job.run.identity not in found]
        places = [(job.run.folder, job.folder / RESULTS) for job in trained]
        for job, evaluated in zip(trained, evaluate(places, store, lm_config, config, progress=progress), strict=True):
            found[job.run.identity] = Outcome.of_summary(job.cell, job.run.identity, evaluated.summary)
        yield from ((job, found[job.run.identity]) for job in group)


def _groups(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Jobs that can share their windows, a few at a time."""
    alike: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        alike.setdefault((job.run.layer, job.run.config.batch_rows), []).append(job)
    for each in alike.values():
        for first in range(0, len(each), TOGETHER):
            yield each[first : first + TOGETHER]
