"""`pipeline evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import console
from pipeline.params import Profile, read_params, with_model
from pipeline.paths import Project
from store.files import write_json


def run(name: str | None, runs: Sequence[Path], folder: str | None, model: str | None) -> None:
    """Evaluate runs, or SAEs that others saved, on heldout documents: those named, or all that params.yaml asks for.

    Then compare all that have been evaluated, now or before.
    """
    from stages.evaluate.comparison import COMPARISON, compare
    from stages.evaluate.run import evaluate

    project = Project.here()
    params = read_params(project.root)
    profile = with_model(params.named(name), model)
    asked = [project.run(profile, v, s) for v in params.run.variants for s in params.run.seeds]
    runs = runs or asked
    outs = [results_of(project, profile, run) for run in runs]
    with console.progress() as progress:
        results = evaluate(
            list(zip(runs, outs, strict=True)),
            folder or project.store(profile),
            profile.model,
            profile.evaluate,
            progress=progress,
        )
    if runs == asked:
        write_json(project.metrics(profile), {result.name: result.summary for result in results})
    for out, result in zip(outs, results, strict=True):
        print(f"{project.show(out)}: {result.did}")
        console.print_facts(result.facts())
    table = compare(project.evaluations(profile))
    files = project.show(project.evaluations(profile) / COMPARISON)
    print(f"{files}.parquet, .csv and .json: {table['run'].nunique()} runs, {len(table):,} rows")


def results_of(project: Project, profile: Profile, path: Path) -> Path:
    """`results/<profile>/<variant>/seed<k>` of a run, `results/<profile>/<name>/foreign` of another SAE."""
    from stages.evaluate.foreign import FOREIGN, foreign_name, is_foreign

    if is_foreign(path):
        return project.evaluations(profile) / foreign_name(path) / FOREIGN
    return project.results(profile, path)
