"""Tables of the page, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from stages.report.evaluated_run import EvaluatedRun
from stages.report.figures import colour
from stages.report.licences import model_licence, text_licence

MISSING = "—"


@dataclass(frozen=True)
class Cell:
    """One cell: text, what qualifies it in small print, and a share of 1 to draw as a bar."""

    text: str
    small: str = ""
    bar: float | None = None


def runs_table(runs: Sequence[EvaluatedRun]) -> str:
    """One row a run: the numbers that decide."""
    head = ["Run", "Steps", "Explained variance", "L0", "Dead latents", "CE score", "KL score"]
    rows = []
    for i, run in enumerate(runs):
        cells = [
            _steps(run),
            _share(run, "explained_variance_centred"),
            Cell(_number(run.number("l0"), 1)),
            _dead(run),
            _share(run, "ce_loss_score"),
            _share(run, "kl_div_score"),
        ]
        swatch = f'<span class="swatch" style="background:{colour(i)}"></span>'
        body = "".join(_td(label, cell) for label, cell in zip(head[1:], cells, strict=True))
        rows.append(f'<tr><th scope="row">{swatch}{escape(run.label)}</th>{body}</tr>')
    return _table("runs", head, rows)


def numbers_table(runs: Sequence[EvaluatedRun]) -> str:
    """Every number of the evaluations, a row a number."""
    names = list(dict.fromkeys(name for run in runs for name in run.summary))
    rows = []
    for name in names:
        cells = "".join(f"<td>{_plain(run.summary.get(name))}</td>" for run in runs)
        rows.append(f'<tr><th scope="row"><code>{escape(name)}</code></th>{cells}</tr>')
    return f'<div class="scroll">{_table("numbers", ["", *(run.label for run in runs)], rows)}</div>'


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
        "Evaluation": {
            "batches": f"{_batches(runs[0], 'reconstruction')} through the language model, "
            f"{_batches(runs[0], 'sparsity_variance')} others for variance and sparsity, "
            f"of {runs[0].core['eval_config']['batch_size_prompts']} rows",
            "kept tokens": f"{facts['tokens']['reconstruction']:,} and {facts['tokens']['sparsity_variance']:,}",
            "definitions": runs[0].core["sae_bench_commit_hash"],
        },
    }
    return "".join(_facts(title, content) for title, content in sections.items())


def _training(run: EvaluatedRun) -> dict[str, Any]:
    training = run.facts["training"]
    row = training.get("row", {})
    return {
        "source": row.get("source"),
        "size": f"{training['d_in']:,} → {training['d_sae']:,} latents",
        **{part: row.get(part) for part in ("sparsifier", "objective", "optimizer")},
        "plan": training.get("plan"),
        "fingerprint": _short(training["fingerprint"]),
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


def _steps(run: EvaluatedRun) -> Cell:
    done, planned = run.number("steps_done"), run.number("steps_planned")
    return Cell(f"{done:,.0f} of {planned:,.0f}", small=f"{run.number('training_tokens') / 1e6:.2f} M tokens")


def _share(run: EvaluatedRun, name: str) -> Cell:
    value, error = run.number(name), run.number(f"{name}_se")
    small = f"± {error:.4f}" if math.isfinite(error) else ""
    bar = min(max(value, 0.0), 1.0) if math.isfinite(value) else None
    return Cell(_number(value, 4), small, bar)


def _dead(run: EvaluatedRun) -> Cell:
    dead, latents = run.number("dead_latents"), run.number("latents")
    return Cell(f"{dead:,.0f}", small=f"of {latents:,.0f}, {dead / latents:.1%}")


def _td(label: str, cell: Cell) -> str:
    bar = "" if cell.bar is None else f'<span class="bar"><span style="width:{100 * cell.bar:.1f}%"></span></span>'
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return f'<td data-label="{escape(label)}"><span class="value">{escape(cell.text)}{small}</span>{bar}</td>'


def _table(kind: str, head: Sequence[str], rows: Sequence[str]) -> str:
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    return f'<table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else MISSING


def _plain(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:,}" if float(value).is_integer() else f"{value:,.5g}"


def _batches(run: EvaluatedRun, phase: str) -> str:
    return f"{run.core['eval_config'][f'n_eval_{phase}_batches']:,}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _short(digest: str) -> str:
    return f"{digest[:16]}…"
