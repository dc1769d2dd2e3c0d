"""`pipeline profiles` and `pipeline use`."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.console import print_json, print_table
from pipeline.params import read_params, use_profile
from pipeline.paths import Project
from store.layout import hook_name


def run(name: str | None, json: bool) -> None:
    """List the profiles, the current one marked; with a name, that one alone."""
    params = read_params(Project.here().root)
    shown = [params.named(name)] if name else list(params.profiles.values())
    if json:
        print_json({"current": params.profile.name, "profiles": {p.name: asdict(p) for p in shown}})
        return
    rows = [
        (
            "*" if p.name == params.profile.name else "",
            p.name,
            p.model.name,
            ", ".join(hook_name(layer) for layer in p.harvest.layer_list),
            p.corpus.source,
            f"{p.corpus.tokens:,}" if p.corpus.tokens else "all",
            p.train.d_sae,
            f"{p.train.steps:,}",
        )
        for p in shown
    ]
    columns = ["", "profile", "model", "hook point", "corpus", "tokens", "d_sae", "steps"]
    print_table(columns, rows, right=["tokens", "d_sae", "steps"])


def use(name: str) -> None:
    """Make a profile current."""
    project = Project.here()
    before = read_params(project.root).profile.name
    use_profile(project.root, name)
    print(f"{name} is the current profile" + ("" if before == name else f" (back: pipeline use {before})"))
