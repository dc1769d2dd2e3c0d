"""`pipeline train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import console
from pipeline.outdated import note_if_outdated
from pipeline.params import FILE, Profile, read_params
from pipeline.paths import Project, suffix_of
from store.problem import Problem

if TYPE_CHECKING:
    from stages.sae.variant import Variant
    from stages.train.run import Run, TrainResult
    from store import ActivationStore
    from store.progress import Progress


def run(
    name: str | None,
    variants: Sequence[str],
    folder: str | None,
    steps: int | None,
    seeds: Sequence[int],
    out: Path | None,
    dry: bool,
) -> None:
    """Train every asked variant with every asked seed; those that can share their windows step together."""
    import store
    from stages.sae.table import find_variant, load_variants

    project = Project.here()
    params = read_params(project.root)
    profile = params.named(name)
    table = load_variants(project.root / "variants.yaml")
    asked_in = None if variants else f"{FILE}, run.variants"
    rows = [find_variant(table, each, asked_in) for each in dict.fromkeys(variants or params.run.variants)]
    seeds = list(dict.fromkeys(seeds or params.run.seeds))
    if out is not None and len(rows) * len(seeds) > 1:
        raise Problem(
            "--out names the folder of one run.",
            expected="one variant and one seed",
            found=f"{len(rows)} variants and {len(seeds)} seeds",
            do="leave --out away, or call once a run",
            usage=True,
        )
    place = project.store_to_read(profile, folder)
    opened = store.open(place)
    flagged = steps not in (None, profile.train.steps) or opened.path.resolve() != project.store(profile).resolve()
    runs = []
    for row in rows:
        for seed in seeds:
            runs += _runs_of(row, seed, steps, profile, opened, project, flagged, out)
    model = opened.model_name or "of no named model"
    with console.progress() as progress:
        progress.note(f"store: {project.show(place)} ({model}, root {opened.root[:8]})")
        note_if_outdated(opened, profile, project, progress)
        if dry:
            _print_plans(runs, project)
            return
        opened.check(progress)
        _train_all(runs, project, progress, replaced=out is None)


def _runs_of(
    row: Variant,
    seed: int,
    steps: int | None,
    profile: Profile,
    opened: ActivationStore,
    project: Project,
    flagged: bool,
    out: Path | None,
) -> list[Run]:
    """The trainings of a variant with a seed, one a layer; flags give their folders a suffix, unless `out` names it."""
    from stages.train.config import make_config
    from stages.train.run import Run

    config, runs = make_config(row, profile.train, seed=seed, steps=steps), []
    for layer in layers_of(row, profile, opened):
        run = Run.of(config, opened, layer, Path())
        last = f"-L{layer}" if layer != max(opened.layers) else ""
        if out is not None:
            target = out.with_name(out.name + last) if last else out
        else:
            target = project.run(profile, row.name, seed, last + (suffix_of(run.identity) if flagged else ""))
        runs.append(replace(run, folder=target))
    return runs


def _print_plans(runs: Sequence[Run], project: Project) -> None:
    from stages.train.estimate import estimate

    for run in runs:
        facts, seconds = estimate(run.config, run.store, run.layer)
        time = console.duration(seconds)
        console.print_facts({"run": project.show(run.folder), **facts, "estimated time": time})


def _train_all(runs: Sequence[Run], project: Project, progress: Progress, replaced: bool) -> None:
    """Train runs, group by group, and say what became of each.

    Raises:
        Exception: what ended one of them, once all others are done.
    """
    from stages.train.loop import train_together

    groups: dict[tuple[int, int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.layer, run.config.seed, run.config.batch_rows), []).append(run)
    results: dict[Run, TrainResult | Exception] = {}
    for group in groups.values():
        results |= zip(group, train_together(group, progress, replace=replaced), strict=True)
        for run in group:
            if not isinstance(done := results[run], Exception):
                print(f"{project.show(run.folder)}: {done.did}")
                console.print_facts(done.facts())
    failures = [(run, result) for run, result in results.items() if isinstance(result, Exception)]
    if len(runs) > 1:
        console.print_table(
            ["run", "steps", "explained variance", "L0", "dead"], [_line(*pair) for pair in results.items()]
        )
    for run, failure in failures[:-1]:
        progress.note(f"{project.show(run.folder)}: {failure}")
    if failures:
        raise failures[-1][1]


def _line(run: Run, result: TrainResult | Exception) -> tuple[str, ...]:
    """A run in the table that ends a queue."""
    name = f"{run.config.variant.name}/seed{run.config.seed} layer {run.layer}"
    if isinstance(result, Exception):
        what = result.what if isinstance(result, Problem) else repr(result)
        return name, what, "", "", ""
    facts = result.facts()
    steps = f"{facts['steps done']:,} of {facts['steps planned']:,}"
    return name, steps, f"{facts['explained variance']:.4f}", f"{facts['L0']:.1f}", f"{facts['dead latents']:,}"


def layers_of(row: Variant, profile: Profile, opened: ActivationStore) -> list[int]:
    """The layers that a variant is trained on: the store's last one, or those of the profile's curriculum, in order.

    Raises:
        Problem: the store lacks one of them, with the command that makes one which has all.
    """
    if row.layers == "one":
        return [max(opened.layers)]
    asked = profile.train.curriculum
    if not asked or set(asked) - set(opened.layers):
        options = " ".join(f"--layer {layer}" for layer in asked)
        place = f"data/stores/{profile.name}-L{'-'.join(map(str, asked))}"
        raise Problem(
            f"{row.name} trains an SAE on each layer of the profile's curriculum.",
            where=opened.path,
            expected=f"layers {', '.join(map(str, asked))}" if asked else f"profiles.{profile.name}.train.curriculum",
            found=f"layers {', '.join(map(str, sorted(opened.layers)))}",
            do=f"run: pipeline harvest --profile {profile.name} {options} --store {place}, and train with that --store"
            if asked
            else "name the layers there",
            usage=True,
        )
    return list(asked)
