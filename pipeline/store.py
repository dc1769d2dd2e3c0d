"""`pipeline store ls | info | verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project


def ls(folder: Path | None, profile: str | None, json: bool) -> None:
    """Every store in a folder, partial and unreadable ones too."""
    from store.manifest import summary

    project = Project.here()
    params = read_params(project.root)
    folder = folder or project.root / "data" / "stores"
    only = params.named(profile).name if profile else ""
    found = sorted(path.parent for path in folder.glob(f"{only}*/manifest.json"))
    rows: list[dict[str, Any]] = [{"store": project.show(path), **summary(path)} for path in found]
    if json:
        console.print_json(rows)
    elif not rows:
        print(f"no stores in {project.show(folder)}; `pipeline harvest` makes one")
    else:
        columns = list(rows[0])
        console.print_table(columns, [[row[c] for c in columns] for row in rows], right=["sequences", "GB"])


def info(folder: str | None, profile: str | None, json: bool) -> None:
    """The manifest in a person's words."""
    import store

    project = Project.here()
    opened = store.open(folder or project.store(read_params(project.root).named(profile)))
    rows = {split: len(opened.rows(split)) for split in ("train", "heldout")}
    documents = opened.documents
    facts: dict[str, Any] = {
        "store": project.show(opened.path),
        "root digest": opened.root,
        "fingerprint": opened.manifest.fingerprint,
        "model": opened.request.get("model", {}).get("name"),
        "corpus": opened.request.get("corpus", {}).get("source"),
        "layers": {str(layer): f"{d} dimensions" for layer, d in opened.layers.items()},
        "dtype": opened.dtype,
        "context": opened.context,
        "sequences": {**rows, "all": opened.n_sequences},
        "documents": {**documents["split"].value_counts().to_dict(), "all": len(documents)},
        "scale": {str(layer): round(float(opened.statistics(layer).scale), 3) for layer in opened.layers},
        "bytes": sum(entry.size for entry in opened.manifest.stored.values()),
        "plan": dict(opened.manifest.plan),
    }
    if json:
        console.print_json(facts)
        return
    flat = {
        key: ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        for key, value in facts.items()
    }
    console.print_facts(flat)


def verify(folder: Path | None, profile: str | None, json: bool) -> None:
    """Every byte against its digest; exit status 1 if anything is wrong."""
    import store

    project = Project.here()
    folder = folder or project.store(read_params(project.root).named(profile))
    with console.progress() as progress:
        result = store.verify(folder, progress)
    if json:
        console.print_json(
            {
                "store": project.show(folder),
                "ok": not result.problems,
                "files": result.n_files,
                "bytes": result.n_bytes,
                "root": result.root,
                "problems": [vars(bad) for bad in result.problems],
            }
        )
    elif result.problems:
        print(f"{project.show(folder)}: {len(result.problems)} of {result.n_files} files are wrong", file=sys.stderr)
        for bad in result.problems:
            print(f"  {bad.path}\n    expected: {bad.expected}\n    found: {bad.found}", file=sys.stderr)
    else:
        print(f"{project.show(folder)}: all {result.n_files} files ({result.n_bytes:,} bytes) are as recorded")
        console.print_facts({"root digest": result.root})
    if result.problems:
        sys.exit(1)
