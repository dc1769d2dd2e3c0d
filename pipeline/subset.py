"""`pipeline store subset`."""

from __future__ import annotations

from pathlib import Path

import store
from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project, local_folder
from store.problem import Problem
from store.subset import Selection, subset


def run(
    folder: str, named: str, layers: list[int], tokens: int | None, documents: Path | None, profile: str | None
) -> None:
    """Publish a part of the store `folder` as a store of its own, in the folder `named`."""
    out = local_folder(named)
    project = Project.here()
    read_params(project.root).named(profile)
    if not layers and tokens is None and documents is None:
        raise Problem("Nothing says what to keep.", expected="--layer, --tokens or --documents", usage=True)
    if tokens is not None and documents is not None:
        raise Problem("Keep the first tokens, or some documents.", expected="--tokens or --documents", usage=True)
    source = store.open(folder)
    ids = None if documents is None else _ids(documents)
    from stages.harvest.card import known_facts

    selection = Selection(tuple(layers) or None, tokens, ids)
    with console.progress() as progress:
        root = subset(source, out, selection, known_facts, progress)
    made = store.open(out)
    print(f"{project.show(out)}: a subset of {project.show(source.path)}")
    console.print_facts(
        {
            "sequences": f"{made.n_sequences:,} of {source.n_sequences:,}",
            "layers": ", ".join(map(str, made.layers)),
            "documents": f"{len(made.documents):,} of {len(source.documents):,}",
            "root digest": root,
        }
    )


def _ids(path: Path) -> frozenset[str]:
    """The ids of documents in a file, one a line."""
    try:
        return frozenset(line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(
            "The list of documents cannot be read.",
            where=path,
            expected="a text file with the id of a document on each line",
            found=error,
            usage=True,
        ) from None
