"""What was run on what, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.report.evaluated_run import EvaluatedRun
from stages.report.licences import model_licence, text_licence


def provenance(runs: Sequence[EvaluatedRun]) -> str:
    """What was run on what. Runs of one store and model share a block."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(run.facts["store"]["root"], []).append(run)
    return "".join(_block(group) for group in groups.values())


def _block(runs: Sequence[EvaluatedRun]) -> str:
    facts = runs[0].facts
    store, model = facts["store"], facts["language_model"]
    request, corpus = store["request"], store["request"]["corpus"]
    positions = store["n_sequences"] * store["context"]
    sections: dict[str, Mapping[str, Any]] = {
        "Language model": {
            "name": model["name"],
            "terms": model_licence(model["name"]),
            "in this evaluation": f"{model['dtype']}, {model['attention']} attention",
            **{file: _short(digest) for file, digest in request["model"].items() if _is_digest(digest)},
        },
        "Text": {
            "source": corpus["source"],
            "licence": text_licence(corpus["source"]),
            **{f"sha256 of {name}": _short(digest) for name, digest in corpus.get("files", {}).items()},
            "packing": request.get("packing"),
            "heldout": f"{request['heldout']:.0%} of the documents" if "heldout" in request else None,
        },
        "Activation store": {
            "hook points": ", ".join(request["hooks"]),
            "size": f"{store['n_sequences']:,} rows of {store['context']} positions, {positions:,} in all",
            "number format": store["dtype"],
            "root digest": _short(store["root"]),
        },
        "Harvest plan": store["plan"],
        **{f"Training of {run.label}": _training(run) for run in runs},
        **_evaluations(runs),
    }
    return "".join(_facts(title, content) for title, content in sections.items())


def _evaluations(runs: Sequence[EvaluatedRun]) -> dict[str, Mapping[str, Any]]:
    """What evaluations read, which names its runs where they read different things."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    for run in runs:
        tokens = run.facts["tokens"]
        facts = {
            "batches": f"{_batches(run, 'reconstruction')} through the language model, "
            f"{_batches(run, 'sparsity_variance')} others for variance and sparsity, "
            f"of {run.core['eval_config']['batch_size_prompts']} rows",
            "kept tokens": f"{tokens['reconstruction']:,} and {tokens['sparsity_variance']:,}",
            "definitions": run.core["sae_bench_commit_hash"],
        }
        labels = next((labels for known, labels in found if known == facts), None)
        if labels is None:
            found.append((facts, [run.label]))
        else:
            labels.append(run.label)
    named = len(found) > 1
    return {f"Evaluation of {', '.join(labels)}" if named else "Evaluation": facts for facts, labels in found}


def _training(run: EvaluatedRun) -> dict[str, Any]:
    training = run.facts["training"]
    row = training.get("row", {})
    return {
        "source": row.get("source", "not trained here"),
        "size": f"{training['d_in']:,} → {training['d_sae']:,} latents",
        **{part: row.get(part) for part in ("sparsifier", "objective", "optimizer")},
        "plan": training.get("plan"),
        "fingerprint": _short(training["fingerprint"]) if "fingerprint" in training else None,
        "files": {name: _short(sha256) for name, sha256 in training["files"].items()} if not row else None,
    }


def _facts(title: str, content: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(_label(name))}</dt><dd>{escape(_text(value))}</dd>"
        for name, value in content.items()
        if value is not None
    )
    return f'<section class="facts"><h3>{escape(title)}</h3><dl>{rows}</dl></section>' if rows else ""


def _label(name: str) -> str:
    """A key as words; a file's name as it is."""
    return name if "." in name else name.replace("_", " ")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_label(str(k))} {_text(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _batches(run: EvaluatedRun, phase: str) -> str:
    return f"{run.core['eval_config'][f'n_eval_{phase}_batches']:,}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _short(digest: str) -> str:
    return f"{digest[:16]}…"
