"""`pipeline variants`."""

from __future__ import annotations

from dataclasses import asdict

import yaml

from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project


def run(name: str | None, profile: str | None, json: bool) -> None:
    """The table of variants with their sources, or one row with its numbers and its reading."""
    from stages.sae.table import find_variant, load_variants

    project = Project.here()
    params = read_params(project.root)
    params.named(profile)
    table = load_variants(project.root / "variants.yaml")
    if name is not None:
        row = asdict(find_variant(table, name))
        if json:
            console.print_json(row)
        else:
            print(yaml.safe_dump(row, sort_keys=False, allow_unicode=True, width=100).rstrip())
        return
    if json:
        console.print_json([asdict(row) for row in table.values()])
        return
    rows = [("*" if v.name in params.run.variants else "", v.name, v.source) for v in table.values()]
    console.print_table(["", "variant", "source"], rows)
    print("* trained by `dvc repro` (run.variants in params.yaml)")
