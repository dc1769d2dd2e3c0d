"""`pipeline evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import console
from pipeline.outdated import note_if_outdated
from pipeline.params import Profile, read_params, with_model
from pipeline.paths import Project, suffix_of
from stages.language_model.config import CorpusConfig
from store.files import write_json
from store.problem import Problem

if TYPE_CHECKING:
    from stages.evaluate.output import EvaluationResult


def run(name: str | None, runs: Sequence[Path], folder: str | None, model: str | None) -> None:
    """Evaluate runs, or SAEs that others saved, on heldout documents: those named, or all that params.yaml asks for.

    Then compare all that have been evaluated, now or before.
    """
    import store
    from stages.evaluate.run import evaluate

    project, profile, asked = _asked(name, model)
    pairs = with_results(project, profile, runs or asked, folder)
    place = project.store_to_read(profile, folder)
    with console.progress() as progress:
        note_if_outdated(store.open(place), profile, project, progress)
        results = evaluate(
            pairs,
            place,
            profile.model,
            profile.evaluate,
            progress=progress,
        )
    if not runs or list(runs) == asked:
        write_json(project.metrics(profile), {result.name: result.summary for result in results})
    _print(project, pairs, results)
    compare_all(project, profile)


def compare_all(project: Project, profile: Profile) -> None:
    """Write the table of everything that was evaluated, and say where it is."""
    from stages.evaluate.comparison import COMPARISON, compare

    with console.progress() as progress:
        table = compare(project.evaluations(profile), progress)
    files = project.show(project.evaluations(profile) / COMPARISON)
    print(f"{files}.parquet, .csv and .json: {table['run'].nunique()} runs, {len(table):,} rows")


def run_on_text(name: str | None, runs: Sequence[Path], folder: str | None, model: str | None, text: Path) -> None:
    """Evaluate them on a text as SAEBench does; no store is read."""
    from stages.evaluate.on_text import evaluate_on_text

    if folder is not None:
        raise Problem(
            "Rows come from a text or from a store.",
            expected="--text or --store",
            found="both",
            do="leave one of them out",
            usage=True,
        )
    project, profile, asked = _asked(name, model)
    pairs = with_results(project, profile, runs or asked)
    source = CorpusConfig(str(text.absolute()), profile.corpus.text_column)
    with console.progress() as progress:
        results = evaluate_on_text(
            pairs,
            source,
            profile.harvest.context,
            profile.model,
            profile.evaluate,
            progress=progress,
        )
    _print(project, pairs, results)


def _asked(name: str | None, model: str | None) -> tuple[Project, Profile, list[Path]]:
    """The project, the profile, and the runs that params.yaml asks for."""
    project = Project.here()
    params = read_params(project.root)
    profile = with_model(params.named(name), model)
    return project, profile, [project.run(profile, v, s) for v in params.run.variants for s in params.run.seeds]


def _print(project: Project, pairs: Sequence[tuple[Path, Path]], results: Sequence[EvaluationResult]) -> None:
    for (_, out), result in zip(pairs, results, strict=True):
        print(f"{project.show(out)}: {result.did}")
        console.print_facts(result.facts())


def with_results(
    project: Project, profile: Profile, paths: Sequence[Path], folder: str | None = None
) -> list[tuple[Path, Path]]:
    """Each SAE once, with the folder of its results: `results/<profile>/<variant>/seed<k>` of a run of this project,
    `results/<profile>/<name>-<digits>` of another, with the last folders of its path and digits of what it is, so that
    SAEs of one name do not take each other's place. Below it `foreign` of an SAE that was not trained here, with digits
    where `folder` names another store than the profile's.
    """
    from stages.evaluate.foreign import FOREIGN, content_of, foreign_name, is_foreign

    found: dict[Path, Path] = {}
    suffix = of_other_store(project, profile, folder) if any(map(is_foreign, paths)) else ""
    for path in paths:
        if project.has_run(profile, path) and not is_foreign(path):
            out = project.results(profile, path)
        else:
            name = foreign_name(path) + suffix_of(content_of(path))
            out = project.evaluations(profile) / name / (FOREIGN + suffix if is_foreign(path) else "")
        found.setdefault(out, path)
    return [(path, out) for out, path in found.items()]


def of_other_store(project: Project, profile: Profile, folder: str | None) -> str:
    """What a path gains where its content is of another store than the profile's."""
    import store

    if folder is None:
        return ""
    opened = store.open(project.store_to_read(profile, folder))
    return "" if opened.path.resolve() == project.store(profile).resolve() else suffix_of(opened.root)
