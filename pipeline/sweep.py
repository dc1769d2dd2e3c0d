"""`pipeline sweep`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import console
from pipeline.experiments import Experiments
from pipeline.outdated import note_if_outdated
from pipeline.params import Profile, read_params, with_model
from pipeline.paths import Project
from pipeline.train import layers_of
from store.files import write_json
from store.problem import Problem
from store.progress import Progress

if TYPE_CHECKING:
    from stages.sweep.outcome import Outcome
    from stages.sweep.run import Job
    from stages.sweep.table import Sweep

TABLE = "table.json"
"""The whole sweep in one file, beside the folders of its cells."""


def listing(profile: str | None, json: bool) -> None:
    """The sweeps of sweeps.yaml."""
    from stages.sae.table import load_variants
    from stages.sweep.cells import cells_of
    from stages.sweep.table import FILE, load_sweeps

    project = Project.here()
    sizes = read_params(project.root).named(profile).train
    variants = load_variants(project.root / "variants.yaml")
    rows = [
        {
            "sweep": name,
            "cells": len(list(cells_of(sweep, variants, sizes))),
            "steps": sweep.steps,
            "seed": sweep.seed,
            "axes": ", ".join(sweep.axes),
            "asks": sweep.asks,
        }
        for name, sweep in load_sweeps(project.root / FILE).items()
    ]
    if json:
        console.print_json(rows)
    elif rows:
        console.print_table(list(rows[0]), [list(row.values()) for row in rows], right=["cells", "steps", "seed"])


def run(name: str, profile: str | None, folder: str | None, model: str | None, dry: bool, json: bool) -> None:
    """Train and evaluate the cells of a sweep, record each as a DVC experiment, and print the table."""
    asked = _Asked.read(name, profile, folder, model)
    with console.progress() as progress:
        if dry:
            _print_plan(asked.jobs, progress, json)
            return
        outcomes, failures = asked.run(progress)
    cells = [outcome.document for outcome in outcomes]
    document = {"sweep": name, "asks": asked.sweep.asks, "cells": cells}
    path = asked.folder / TABLE
    write_json(path, document)
    if json:
        console.print_json(document)
    else:
        columns, rows, numbers = table_of(cells)
        console.print_table(columns, rows, right=numbers)
        print(f"{asked.project.show(path)}: {len(outcomes)} of {len(asked.jobs)} cells")
    if failures:
        raise failures[-1]


@dataclass(frozen=True)
class _Asked:
    """A sweep, what it needs and where it goes."""

    name: str
    """Its key in sweeps.yaml."""
    project: Project
    """Where its cells are kept."""
    profile: Profile
    """Whose sizes and language model they have."""
    sweep: Sweep
    """What was declared."""
    place: str | Path
    """The store."""
    jobs: Sequence[Job]
    """Its cells."""

    @classmethod
    def read(cls, name: str, profile_name: str | None, folder: str | None, model: str | None) -> _Asked:
        """Read and check all of it, before any work."""
        import store
        from stages.sae.table import load_variants
        from stages.sweep.cells import cells_of
        from stages.sweep.run import jobs_of
        from stages.sweep.table import FILE, find_sweep, load_sweeps

        project = Project.here()
        profile = with_model(read_params(project.root).named(profile_name), model)
        sweep = find_sweep(load_sweeps(project.root / FILE), name)
        cells = list(cells_of(sweep, load_variants(project.root / "variants.yaml"), profile.train))
        place = project.store_to_read(profile, folder)
        opened = store.open(place)
        out = project.sweep(profile, name)
        jobs = jobs_of(cells, opened, lambda row: layers_of(row, profile, opened)[-1], out)
        return cls(name, project, profile, sweep, place, jobs)

    @property
    def folder(self) -> Path:
        """Holds a folder a cell, and the table."""
        return self.project.sweep(self.profile, self.name)

    def run(self, progress: Progress) -> tuple[list[Outcome], list[Exception]]:
        """What the cells came to, in the order of the sweep, and what kept others from coming to anything."""
        from stages.sweep.run import run_jobs

        opened = self.jobs[0].run.store
        progress.note(f"store: {self.project.show(self.place)} ({self.profile.name}, root {opened.root[:8]})")
        note_if_outdated(opened, self.profile, self.project, progress)
        record = self._recorder(progress)
        opened.check(progress)
        found: dict[str, Outcome] = {}
        failures: list[Exception] = []
        profile = self.profile
        for job, result in run_jobs(self.jobs, self.place, profile.model, profile.evaluate, progress=progress):
            if isinstance(result, Exception):
                progress.note(f"{job.cell.name}: {result}")
                failures.append(result)
            else:
                found[job.run.identity] = result
                record(job, result)
        return [found[job.run.identity] for job in self.jobs if job.run.identity in found], failures

    def _recorder(self, progress: Progress) -> Callable[[Job, Outcome], None]:
        """What records a cell as a DVC experiment. A sweep runs without them too, and says why there are none."""
        try:
            experiments = Experiments.of(self.project.root)
        except Problem as problem:
            progress.note(str(problem))
            return lambda job, outcome: None

        def record(job: Job, outcome: Outcome) -> None:
            parameters = {"sweep": self.name, "profile": self.profile.name, **outcome.parameters}
            try:
                if experiments.record(f"{self.name},{job.folder.name}", parameters, outcome.metrics):
                    progress.note(f"{job.cell.name} is a DVC experiment: see `dvc exp show --only-changed`")
            except Problem as problem:  # no reason to stop: the next call records what is missing
                progress.note(str(problem))

        return record


def _print_plan(jobs: Sequence[Job], progress: Progress, json: bool) -> None:
    """The cells, their steps, and what is left to train."""
    from stages.train.estimate import estimate

    progress.start("estimating", len(jobs), "cells")
    seconds = []
    for job in jobs:
        seconds.append(0.0 if job.done else estimate(job.run.config, job.run.store, job.run.layer)[1])
        progress.advance(1)
    if json:
        pairs = zip(jobs, seconds, strict=True)
        console.print_json(
            [{"cell": job.cell.name, "steps": job.run.config.steps, "seconds": round(left)} for job, left in pairs]
        )
        return
    times = [_left(job, left) for job, left in zip(jobs, seconds, strict=True)]
    rows = [(job.cell.name, f"{job.run.config.steps:,}", time) for job, time in zip(jobs, times, strict=True)]
    console.print_table(["cell", "steps", "estimated time"], rows, right=["steps", "estimated time"])
    left = sum(map(bool, seconds))
    print(f"{left} of {len(jobs)} cells to train, {console.duration(sum(seconds))} without their evaluation")


def _left(job: Job, seconds: float) -> str:
    """The time that a cell takes, or that it has ended."""
    if job.ended:
        return "ended by a guard"
    return "trained" if job.done else console.duration(seconds)


def table_of(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], list[str]]:
    """Columns, rows and the columns of numbers of the cells of `table.json`, with the levels of Matryoshka SAEs. A TCS
    and a smoothness stand before those of permuted inputs."""
    from stages.evaluate.levels import levels_of
    from stages.evaluate.temporal.consistency import SCALES

    axes = list(dict.fromkeys(axis for cell in cells for axis in cell["axes"]))
    depth = max((len(levels_of(cell["summary"] or {})) for cell in cells), default=0)
    numbers = ["steps", "explained variance", "L0", "dead", *(f"TCS {scale} (permuted)" for scale in SCALES)]
    for level in range(1, depth + 1):
        numbers += [f"L0 of level {level}", f"smoothness of level {level} (permuted)"]
    rows = []
    for cell in cells:
        where = (str(cell["axes"].get(axis, "")) for axis in axes)
        steps = f"{cell['steps_done']:,} of {cell['steps']:,}"
        rows.append([cell["variant"], *where, steps, *_measured(cell["summary"] or {}, depth), cell["collapsed"] or ""])
    return ["variant", *axes, *numbers, "collapsed"], rows, [*axes, *numbers]


def _measured(summary: Mapping[str, float | int | None], depth: int) -> list[str]:
    """The numbers of an evaluation and of `depth` levels, as text; empty where there is none."""
    from stages.evaluate.temporal.consistency import SCALES

    def number(name: str, form: str) -> str:
        value = summary.get(name)
        return "" if value is None else format(value, form)

    def beside_null(name: str) -> str:
        score = number(name, ".4f")
        return f"{score} ({number(f'{name}_inputs_permuted', '.4f')})" if score else ""

    levels = ((number(f"level{i}_l0", ".1f"), beside_null(f"level{i}_smoothness")) for i in range(depth))
    return [
        number("explained_variance_centred", ".4f"),
        number("l0", ".1f"),
        number("dead_latents", ","),
        *(beside_null(f"tcs_{scale}") for scale in SCALES),
        *(text for level in levels for text in level),
    ]
