"""`pipeline evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import console
from pipeline.params import read_params, with_model
from pipeline.paths import Project
from store.files import write_json


def run(name: str | None, runs: Sequence[Path], folder: str | None, model: str | None) -> None:
    """Evaluate runs on heldout documents: those named, or all that params.yaml asks for."""
    from stages.evaluate.run import evaluate

    project = Project.here()
    params = read_params(project.root)
    profile = with_model(params.named(name), model)
    asked = [project.run(profile, v, s) for v in params.run.variants for s in params.run.seeds]
    runs = runs or asked
    with console.progress() as progress:
        results = evaluate(
            [(run, project.results(profile, run)) for run in runs],
            folder or project.store(profile),
            profile.model,
            profile.evaluate,
            progress=progress,
        )
    if runs == asked:
        write_json(project.metrics(profile), {result.name: result.summary for result in results})
    for run, result in zip(runs, results, strict=True):
        print(f"{project.show(project.results(profile, run))}: {result.did}")
        console.print_facts(result.facts())
