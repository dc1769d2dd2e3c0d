"""`pipeline store ls | info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project
from store.problem import Problem


def ls(folder: Path | None, profile: str | None, json: bool) -> None:
    """Every store in a folder, partial and unreadable ones too."""
    project = Project.here()
    params = read_params(project.root)
    folder = folder or project.root / "data" / "stores"
    if folder.exists() and not folder.is_dir():
        raise Problem("This is no folder.", where=folder, expected="a folder with stores", usage=True)
    only = f"{params.named(profile).name}-L" if profile else ""
    found = sorted(path.parent for path in folder.glob(f"{only}*/manifest.json"))
    rows: list[dict[str, Any]] = [{"store": project.show(path), **summary(path)} for path in found]
    if json:
        console.print_json(rows)
    elif not rows:
        print(f"no stores in {project.show(folder)}; `pipeline harvest` makes one")
    else:
        columns = ["store", "status", "model", "layers", "dtype", "tokens", "GB", "root"]
        cells = [[_cell(row[column]) for column in columns] for row in rows]
        console.print_table(columns, cells, right=["tokens", "GB"])


def summary(folder: Path) -> dict[str, Any]:
    """One line about the store `folder`, whatever state it is in; only the manifest is read."""
    from store.manifest import Manifest

    try:
        manifest = Manifest.load(folder)
    except Problem as problem:
        unknown = ("model", "layers", "dtype", "context", "sequences", "tokens", "GB", "root", "fingerprint")
        return {"status": "unreadable", **dict.fromkeys(unknown), "note": problem.what}
    return {
        "status": manifest.status,
        "model": named(manifest.request, "model", "name"),
        "layers": ",".join(map(str, manifest.layers)),
        "dtype": manifest.dtype,
        "context": manifest.context,
        "sequences": manifest.n_sequences,
        "tokens": manifest.n_sequences and manifest.n_sequences * manifest.context,
        "GB": round(sum(record.size for record in manifest.stored.values()) / 1e9, 3),
        "root": manifest.root and manifest.root[:8],
        "fingerprint": manifest.fingerprint[:8],
        "note": "",
    }


def named(request: dict[str, Any], *keys: str) -> str | None:
    """A text inside a request, which may be of any form; None where there is none."""
    value: Any = request
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def info(folder: str | None, profile: str | None, json: bool) -> None:
    """The manifest in a person's words."""
    import store

    project = Project.here()
    opened = store.open(project.store_to_read(read_params(project.root).named(profile), folder))
    rows = {split: len(opened.rows(split)) for split in ("train", "heldout")}
    documents = opened.documents
    facts: dict[str, Any] = {
        "store": project.show(opened.path),
        "root digest": opened.root,
        "fingerprint": opened.manifest.fingerprint,
        "model": named(opened.request, "model", "name"),
        "corpus": named(opened.request, "corpus", "source"),
        **({"subset": _subset(opened.request)} if "subset" in opened.request else {}),
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


def _subset(request: dict[str, Any]) -> str:
    """Of what a store is a subset, and how it was chosen, from its request, which may be of any form."""
    steps = request["subset"] if isinstance(request["subset"], list) else []
    return ", then ".join(
        ", ".join(f"{key} {value}" for key, value in step.items()) for step in steps if isinstance(step, dict)
    )
