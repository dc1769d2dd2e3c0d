"""`pipeline unlearn`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.evaluate import compare_all, of_other_store, with_results
from pipeline.params import read_params, with_model
from pipeline.paths import Project


def run(
    name: str | None,
    runs: Sequence[Path],
    folder: str | None,
    model: str | None,
    forget: Path | None,
    retain: Path | None,
    questions: Sequence[Path],
    rmu: bool,
) -> None:
    """Unlearn with each run's SAE, and print what was forgotten and what else was lost; then compare all."""
    from stages.unlearn.material import Files, read_material
    from stages.unlearn.run import unlearn

    project = Project.here()
    profile = with_model(read_params(project.root).named(name), model)
    pairs = with_results(project, profile, runs, folder)
    beside = project.rmu(profile, of_other_store(project, profile, folder)) if rmu else None
    with console.progress() as progress:
        material = read_material(Files(forget, retain, tuple(questions)), profile.corpus, profile.unlearn)
        results = unlearn(
            pairs,
            project.store_to_read(profile, folder),
            profile.model,
            material,
            profile.unlearn,
            beside,
            by_digits=bool(forget or retain or questions),
            progress=progress,
        )
    for result in results:
        print(f"{project.show(result.path)}: {result.did}")
        _print(result.document)
    compare_all(project, profile)


def _print(document: Mapping[str, Any]) -> None:
    """The score, and the settings of the sweep beside the untouched model."""
    found = document["eval_result_unstructured"]
    counts = found["material"]["questions"]
    names = document["eval_config"]["dataset_names"]  # in their order, which JSON with sorted keys has lost
    known = {name: f"{counts[name]['known']:,} of {counts[name]['questions']:,}" for name in names}
    score = document["eval_result_metrics"]["unlearning"]["unlearning_score"]
    console.print_facts({"score": f"{score:.4f}", "to forget": found["material"]["forget_set"], **known})
    head = ["intervention", "forget accuracy", "retain accuracy", "forget loss", "retain loss"]
    rows = [_line("none", found["baseline"]), *(_line(_how(each), each) for each in found["sweep"])]
    console.print_table(head, rows)


def _how(setting: Mapping[str, Any]) -> str:
    if "multiplier" not in setting:
        return f"RMU, steering {setting['steering']:g}, alpha {setting['alpha']:g}, {setting['steps']} steps"
    window = f", {setting['window']} tokens" if setting["window"] > 1 else ""
    chosen = f"{len(setting['latents'])} latents below {setting['retain_threshold']:g}"
    return f"{chosen} to -{setting['multiplier']:g}{window}"


def _line(name: str, outcome: Mapping[str, Any]) -> tuple[str, ...]:
    columns = ("forget_accuracy", "retain_accuracy", "forget_loss", "retain_loss")
    return name, *(_number(outcome[column], outcome[f"{column}_se"]) for column in columns)


def _number(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
