"""`pipeline store inspect | stats`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import store
from pipeline import console
from pipeline.params import Params, read_params
from pipeline.paths import Project
from pipeline.store import named
from store.problem import Problem
from store.survey import (
    SINK,
    Survey,
    largest_means,
    largest_variances,
    survey,
    token_norms,
    vectors,
)

Spell = Callable[[list[int]], list[str]]
SHOWN = 5
"""Lines of a list of sinks."""


def inspect(folder: str | None, row: int | None, document: str | None, profile: str | None, json: bool) -> None:
    """One sequence: text, token ids, documents, norms."""
    if row is not None and document is not None:
        raise Problem("Name a sequence or a document.", expected="--row or --document", usage=True)
    project = Project.here()
    params = read_params(project.root)
    opened = store.open(project.store_to_read(params.named(profile), folder))
    rows = [row or 0] if document is None else _rows_of(opened, document)
    if rows[0] >= opened.n_sequences:
        last = opened.n_sequences - 1
        raise Problem("There is no such sequence.", expected=f"0 to {last}", found=rows[0], usage=True)
    spell, note = _spelling(opened, params, profile)
    facts = {
        "store": project.show(opened.path),
        "sequence": rows[0],
        **({"document in sequences": rows} if document is not None else {}),
        "tokenizer": note,
        **_sequence(opened, rows[0], spell),
    }
    if json:
        console.print_json(facts)
    else:
        _print_sequence(facts)


def _rows_of(opened: store.ActivationStore, document: str) -> list[int]:
    """The sequences that hold a document."""
    numbers = np.flatnonzero(opened.documents["id"] == document)
    if not len(numbers):
        raise Problem("This store has no such document.", where=opened.path, found=document, usage=True)
    return opened.rows_with(numbers).tolist()


def _spelling(opened: store.ActivationStore, params: Params, profile: str | None) -> tuple[Spell, str]:
    """What turns ids into text, and which tokenizer that is or why there is none."""
    from stages.language_model.tokenizer import spelled, tokenizer_for

    recorded = named(opened.request, "model", "tokenizer.json")
    name = named(opened.request, "model", "name")
    models = [p.model for p in params.profiles.values() if p.model.name == name]
    model = params.named(profile).model if profile or not models else models[0]
    try:
        if recorded is None:
            raise Problem("The store does not say which tokenizer made its text.")
        tokenizer = tokenizer_for(recorded, model)
    except Problem as problem:
        return lambda ids: [""] * len(ids), f"none: {' '.join(str(problem).split())}"
    return lambda ids: spelled(tokenizer, ids), model.name


def _sequence(opened: store.ActivationStore, row: int, spell: Spell) -> dict[str, Any]:
    """Everything there is to say of a sequence."""
    ids, document = opened.tokens([row])[0].tolist(), opened.document([row])[0].tolist()
    layers = {layer: vectors(opened, layer, row) for layer in opened.layers}
    norms = {layer: token_norms(x) for layer, x in layers.items()}
    texts = spell(ids)
    table = opened.documents.iloc[sorted({number for number in document if number >= 0})]
    return {
        "text": "".join(texts),
        "documents": [
            {"document": int(number), **entry} for number, entry in zip(table.index, _records(table), strict=True)
        ],
        "not finite": {str(layer): int(np.count_nonzero(~np.isfinite(x))) for layer, x in layers.items()},
        "tokens": [
            {
                "position": position,
                "id": ids[position],
                "text": texts[position],
                "document": document[position],
                "norm": {str(layer): _number(norm[position]) for layer, norm in norms.items()},
            }
            for position in range(opened.context)
        ],
    }


def _records(table: Any) -> list[dict[str, Any]]:
    return [
        {key: None if value != value else value for key, value in entry.items()} for entry in table.to_dict("records")
    ]


def _number(value: float) -> float | None:
    """A number as JSON has it: None where it is NaN or infinite."""
    return round(float(value), 6) if math.isfinite(value) else None


def _print_sequence(facts: dict[str, Any]) -> None:
    layers = list(facts["not finite"])
    several = {"document in sequences"} & set(facts)
    broken = ", ".join(f"layer {layer}: {count}" for layer, count in facts["not finite"].items())
    shown = {key: facts[key] for key in ("store", "sequence", *several, "tokenizer")}
    console.print_facts({**shown, "values not finite": broken})
    if facts["text"]:
        print(f"\n{console.printable(facts['text'])}\n")
    columns = ["document", "id", "source", "label", "split", "n_tokens"]
    documents = [[_cell(entry[column]) for column in columns] for entry in facts["documents"]]
    console.print_table(columns, documents, right=["document", "n_tokens"])
    print()
    columns = ["position", "id", "token", "document", *(f"norm L{layer}" for layer in layers)]
    rows = [
        [t["position"], t["id"], repr(t["text"]) if t["text"] else "", "" if t["document"] < 0 else t["document"]]
        + [f"{norm:,.1f}" if norm is not None else "not finite" for norm in t["norm"].values()]
        for t in facts["tokens"]
    ]
    console.print_table(columns, rows, right=["position", "id", "document", *columns[4:]])


def stats(folder: str | None, layer: int | None, profile: str | None, json: bool) -> None:
    """What normalisation and training will meet in a store's activations."""
    project = Project.here()
    params = read_params(project.root)
    opened = store.open(project.store_to_read(params.named(profile), folder))
    layers = list(opened.layers) if layer is None else [layer]
    known = {layer: opened.statistics(layer) for layer in layers}
    with console.progress() as progress:
        seen = {layer: survey(opened, layer, progress=progress) for layer in layers}
    spell, _ = _spelling(opened, params, profile)
    facts = {str(layer): {**_stored(known[layer]), **_seen(seen[layer], spell)} for layer in layers}
    if json:
        console.print_json({"store": project.show(opened.path), "layers": facts})
        return
    for number, values in facts.items():
        print(f"{project.show(opened.path)}, layer {number}")
        _print_stats(values)


def _print_stats(values: dict[str, Any]) -> None:
    """Single numbers a line each, lists as tables."""
    norms = {f"mean norm, {place}": norm for place, norm in values["mean norm"].items()}
    numbers = {key: value for key, value in values.items() if not isinstance(value, dict | list)}
    console.print_facts({key: _cell(value) for key, value in {**numbers, **norms}.items()})
    for name, rows in values.items():
        if isinstance(rows, list) and rows:
            print(f"\n{name}")
            cells = [[repr(cell) if isinstance(cell, str) else _cell(cell) for cell in row.values()] for row in rows]
            console.print_table(list(rows[0]), cells, right=[key for key in rows[0] if key != "text"])
    print()


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _stored(statistics: store.statistics.Statistics) -> dict[str, Any]:
    """From the statistics in the store, over the kept tokens of the train split."""
    norms = statistics.norm_by_position
    positions = np.flatnonzero(np.isfinite(norms))
    ends = {} if not len(positions) else {f"position {p}": norms[p] for p in (positions[0], positions[-1])}
    return {
        "kept train tokens": statistics.count,
        "norm of the mean": _number(float(np.linalg.norm(statistics.mean))),
        "scale": _number(statistics.scale),
        "mean norm": {
            **{name: _number(norm) for name, norm in ends.items()},
            "median of positions": _number(float(np.median(norms[positions]))) if len(positions) else None,
        },
        "largest means": [{"dimension": i, "mean": _number(mean)} for i, mean in largest_means(statistics)],
        "largest variances": [{"dimension": i, "share": _number(s)} for i, s in largest_variances(statistics)],
    }


def _seen(seen: Survey, spell: Spell) -> dict[str, Any]:
    """From the sequences that were read, BOS and padding included."""
    tokens = seen.sink_tokens()[:SHOWN]
    texts = spell([token for token, _ in tokens])
    return {
        "sequences read": len(seen.rows),
        "values not finite": seen.n_not_finite,
        "median norm": _number(seen.median),
        f"sinks (norm above {SINK:g} medians)": int(seen.sinks.sum()),
        "sinks by position": [{"position": p, "sinks": n} for p, n in seen.sink_positions()[:SHOWN]],
        "sinks by token": [
            {"id": token, "text": text, "sinks": n} for (token, n), text in zip(tokens, texts, strict=True)
        ],
    }
