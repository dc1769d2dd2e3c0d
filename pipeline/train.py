"""`pipeline train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import console
from pipeline.params import Profile, read_params
from pipeline.paths import Project, suffix_of
from store.problem import Problem
from store.remote import is_url


def run(
    name: str | None,
    variants: Sequence[str],
    folder: str | None,
    steps: int | None,
    seeds: Sequence[int],
    out: Path | None,
    dry: bool,
) -> None:
    """Train every asked variant with every asked seed, one after the other."""
    import store
    from stages.sae.table import find_variant, load_variants
    from stages.train.config import make_config
    from stages.train.estimate import estimate
    from stages.train.loop import train
    from stages.train.plan import check_plan, fingerprint

    project = Project.here()
    params = read_params(project.root)
    profile = params.named(name)
    table = load_variants(project.root / "variants.yaml")
    rows = [find_variant(table, v) for v in (variants or params.run.variants)]
    seeds = seeds or params.run.seeds
    if out is not None and len(rows) * len(seeds) > 1:
        raise Problem(
            "--out names the folder of one run.",
            expected="one variant and one seed",
            found=f"{len(rows)} variants and {len(seeds)} seeds",
            do="leave --out away, or call once a run",
            usage=True,
        )
    place = store_folder(project, profile, folder)
    opened = store.open(place)
    layer = max(opened.layers)
    flagged = steps not in (None, profile.train.steps) or opened.path.resolve() != project.store(profile).resolve()
    with console.progress() as progress:
        progress.note(f"store: {project.show(place)} ({profile.name}, layer {layer}, root {opened.root[:8]})")
        if not dry:
            opened.check(progress)
        for row in rows:
            for seed in seeds:
                config = make_config(row, profile.train, seed=seed, steps=steps)
                check_plan(config, opened, layer)
                suffix = suffix_of(fingerprint(config, opened, layer)) if flagged else ""
                target = out or project.run(profile, row.name, seed, suffix)
                if dry:
                    facts, seconds = estimate(config, opened, layer)
                    time = console.duration(seconds)
                    console.print_facts({"run": project.show(target), **facts, "estimated time": time})
                    continue
                result = train(config, opened, layer, target, progress, replace=out is None)
                print(f"{project.show(target)}: {result.did}")
                console.print_facts(result.facts())


def store_folder(project: Project, profile: Profile, named: str | None) -> str | Path:
    """The store to read: the one named, which may be a URL, or the profile's.

    Raises:
        Problem: there is none, with the command that makes it.
    """
    if named is not None and is_url(named):
        return named
    place = Path(named) if named else project.store(profile)
    if not (place / "manifest.json").exists():
        raise Problem(
            "There is no activation store here.",
            where=project.show(place),
            expected="a folder with a manifest.json",
            found="no such folder" if not place.exists() else "no manifest.json in it",
            do=f"run: pipeline harvest --profile {profile.name}" + (f" --store {project.show(place)}" if named else ""),
        )
    return place
