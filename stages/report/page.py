"""The page: one HTML file with its style and figures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from stages.report.contrast import Comparison
from stages.report.drawing import Picture
from stages.report.evaluated_run import EvaluatedRun
from stages.report.finding import finding
from stages.report.provenance import provenance
from stages.report.tables import has_temporal, levels_table, numbers_table, runs_table, seeds_table
from stages.report.temporal_tables import FURTHER, MAIN, contrast_tables, lags, temporal_table
from stages.report.verdict import verdict


def make_page(
    runs: Sequence[EvaluatedRun], comparisons: Sequence[Comparison], pictures: Mapping[str, Sequence[Picture]]
) -> str:
    """The whole page. It refers to nothing outside itself and runs no script."""
    config = runs[0].core["eval_config"]
    drawn = {section: "\n".join(map(_figure, members)) for section, members in pictures.items()}
    return _fill(
        "page.html",
        style=files("stages.report").joinpath("style.css").read_text(encoding="utf-8"),
        title=f"Sparse autoencoders on {escape(config['model_name'])}",
        eyebrow=escape(f"{len(runs)} runs · text: {config['dataset']} · context {config['context_size']}"),
        finding=_finding(runs, comparisons),
        contrasts=_contrasts(comparisons, drawn["contrast"]),
        null=' The small number below a TCS, "null", is the same with the inputs permuted.'
        if has_temporal(runs)
        else "",
        seeds=seeds_table(runs),
        runs=runs_table(runs),
        levels=levels_table(runs),
        comparison=drawn["comparison"],
        temporal=_temporal(runs, drawn["temporal"]),
        training=drawn["training"],
        loss=drawn["loss"],
        provenance=provenance(runs),
        temporal_terms=_fill("temporal_terms.html") if has_temporal(runs) else "",
        numbers=numbers_table(runs),
    )


def _finding(runs: Sequence[EvaluatedRun], comparisons: Sequence[Comparison]) -> str:
    """The temporal parts first, then the runs by themselves."""
    verdicts = [verdict(comparison) for comparison in comparisons]
    paragraphs = [(kind, text) for result in verdicts for kind, text in zip(("lead", ""), result, strict=True) if text]
    first, *others = finding(runs)
    paragraphs += [("" if verdicts else "lead", first), *(("", sentence) for sentence in others)]
    return "\n".join(
        f'<p class="{kind}">{_prose(text)}</p>' if kind else f"<p>{_prose(text)}</p>" for kind, text in paragraphs
    )


def _contrasts(comparisons: Sequence[Comparison], figures: str) -> str:
    tables = contrast_tables(comparisons)
    return _fill("contrasts.html", figures=figures, tables=tables) if tables else ""


def _temporal(runs: Sequence[EvaluatedRun], figures: str) -> str:
    if not has_temporal(runs):
        return ""
    return _fill(
        "temporal.html",
        main=temporal_table(runs, MAIN),
        further=temporal_table(runs, FURTHER),
        figures=figures,
        lags=lags(runs),
    )


def _fill(template: str, **parts: str) -> str:
    return Template(files("stages.report").joinpath(template).read_text(encoding="utf-8")).substitute(parts)


def _prose(text: str) -> str:
    """Escaped, with `code` marked as such."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _figure(picture: Picture) -> str:
    """The picture as an image of its own, so that the ids inside two SVGs cannot meet."""
    data = base64.b64encode(picture.svg).decode()
    return f'<figure><img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{data}"></figure>'
