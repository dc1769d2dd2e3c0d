"""The page: one HTML file with its style and figures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from stages.report.evaluated_run import EvaluatedRun
from stages.report.figures import Picture
from stages.report.finding import finding
from stages.report.tables import numbers_table, provenance, runs_table


def make_page(runs: Sequence[EvaluatedRun], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """The whole page. It refers to nothing outside itself and runs no script."""
    folder = files("stages.report")
    config = runs[0].core["eval_config"]
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        style=folder.joinpath("style.css").read_text(encoding="utf-8"),
        title=f"Sparse autoencoders on {escape(config['model_name'])}",
        eyebrow=escape(f"{len(runs)} runs · text: {config['dataset']} · context {config['context_size']}"),
        finding="\n".join(f"<p>{escape(sentence)}</p>" for sentence in finding(runs)),
        runs=runs_table(runs),
        provenance=provenance(runs),
        numbers=numbers_table(runs),
        **{section: "\n".join(map(_figure, members)) for section, members in pictures.items()},
    )


def _figure(picture: Picture) -> str:
    """The picture as an image of its own, so that the ids inside two SVGs cannot meet."""
    data = base64.b64encode(picture.svg).decode()
    return f'<figure><img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{data}"></figure>'
