"""The page: one HTML file with its style and figures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from importlib.resources import files
from string import Template

from stages.evaluate.temporal.catalogue import KINDS, LIFETIMES, TRANSITIONS
from stages.report.claims import claims_table
from stages.report.contrast import Comparison
from stages.report.contrast_tables import contrast_tables, matched_tables
from stages.report.drawing import Picture
from stages.report.evaluated_run import EvaluatedRun
from stages.report.finding import finding
from stages.report.matched import Matched, matched
from stages.report.probing_tables import has_probes, probing_tables
from stages.report.provenance import provenance
from stages.report.tables import has_temporal, levels_table, numbers_table, runs_table, seeds_table
from stages.report.temporal_tables import FURTHER, MAIN, has_patterns, lags, temporal_table
from stages.report.terms import terms
from stages.report.unlearning import Comparable
from stages.report.unlearning_tables import unlearning_tables
from stages.report.verdict import at_equal_sparsity, no_control, verdict

FEW = 2
"""Temporal variants whose results stand above in full."""


def make_page(
    runs: Sequence[EvaluatedRun],
    comparisons: Sequence[Comparison],
    unlearned: Sequence[Comparable],
    pictures: Mapping[str, Sequence[Picture]],
) -> str:
    """The whole page. It refers to nothing outside itself and runs no script."""
    config = runs[0].core["eval_config"]
    drawn = {section: "\n".join(map(_figure, members)) for section, members in pictures.items()}
    equal = matched(runs, comparisons)
    claims = claims_table(runs)
    return _fill(
        "page.html",
        style=files("stages.report").joinpath("style.css").read_text(encoding="utf-8"),
        title=f"Sparse autoencoders on {escape(config['model_name'])}",
        eyebrow=escape(f"{len(runs)} runs · text: {config['dataset']} · context {config['context_size']}"),
        finding=_finding(runs, comparisons, equal),
        contrasts=_contrasts(comparisons, drawn["contrast"]),
        matched=_matched(equal, drawn["matched"]),
        null=' The small number below a TCS, "null", is the same with the inputs permuted.'
        if has_temporal(runs)
        else "",
        seeds=seeds_table(runs),
        runs=runs_table(runs),
        levels=levels_table(runs),
        comparison=drawn["comparison"],
        temporal=_temporal(runs, drawn),
        probing=_fill("probing.html", tables=probing_tables(runs), figures=drawn["probing"])
        if has_probes(runs)
        else "",
        unlearning=_fill("unlearning.html", tables=unlearning_tables(unlearned), figures=drawn["unlearning"])
        if unlearned
        else "",
        training=drawn["training"],
        loss=drawn["loss"],
        claims=_fill("claims.html", table=claims) if claims else "",
        provenance=provenance(runs),
        terms=terms(runs),
        numbers=numbers_table(runs),
    )


def _finding(runs: Sequence[EvaluatedRun], comparisons: Sequence[Comparison], equal: Sequence[Matched]) -> str:
    """The temporal parts first, then the runs by themselves. Of many temporal parts, all but the result of each and
    what it has to be read with is folded."""
    paragraphs = []
    known = [(each, at_l0) for each, at_l0 in zip(comparisons, equal, strict=True) if each.main]
    for comparison, at_l0 in known:
        result, others, caution = verdict(comparison)
        more = [at_equal_sparsity(at_l0), others]
        paragraphs.append(_paragraph(result, "lead"))
        if len(known) <= FEW:
            paragraphs += map(_paragraph, (*more, caution))
        else:
            paragraphs += [_paragraph(caution), _folded(comparison, more)]
    if unknown := [comparison for comparison in comparisons if not comparison.main]:
        paragraphs.append(_paragraph(no_control(unknown), "" if paragraphs else "lead"))
    first, *rest = finding(runs)
    paragraphs += [_paragraph(first, "" if comparisons else "lead"), *map(_paragraph, rest)]
    return "\n".join(filter(None, paragraphs))


def _folded(comparison: Comparison, texts: Sequence[str]) -> str:
    title = f"{escape(comparison.variant)} against per-token SAEs, and in other metrics"
    return f"<details><summary>{title}</summary>{''.join(map(_paragraph, texts))}</details>"


def _paragraph(text: str, kind: str = "") -> str:
    """Empty where there is no text."""
    if not text:
        return ""
    return f'<p class="{kind}">{_prose(text)}</p>' if kind else f"<p>{_prose(text)}</p>"


def _contrasts(comparisons: Sequence[Comparison], figures: str) -> str:
    tables = contrast_tables(comparisons)
    return _fill("contrasts.html", figures=figures, tables=tables) if tables else ""


def _matched(equal: Sequence[Matched], figures: str) -> str:
    if not equal:
        return ""
    without = "\n".join(_paragraph(at_equal_sparsity(each)) for each in equal if not each.contrasts)
    return _fill("matched.html", without=without, figures=figures, tables=matched_tables(equal))


def _temporal(runs: Sequence[EvaluatedRun], drawn: Mapping[str, str]) -> str:
    if not has_temporal(runs):
        return ""
    return _fill(
        "temporal.html",
        main=temporal_table(runs, MAIN),
        further=temporal_table(runs, FURTHER),
        figures=drawn["temporal"],
        patterns=_patterns(runs, drawn["patterns"]),
        lags=lags(runs),
    )


def _patterns(runs: Sequence[EvaluatedRun], figures: str) -> str:
    if not has_patterns(runs):
        return ""
    tables = {"lifetimes": LIFETIMES, "transitions": TRANSITIONS, "kinds": KINDS}
    return _fill(
        "patterns.html", figures=figures, **{name: temporal_table(runs, each) for name, each in tables.items()}
    )


def _fill(template: str, **parts: str) -> str:
    return Template(files("stages.report").joinpath(template).read_text(encoding="utf-8")).substitute(parts)


def _prose(text: str) -> str:
    """Escaped, with `code` marked as such."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def names_of_figures(page: str) -> set[str]:
    """Names of the figures of a page that was made here."""
    return {unescape(name) for name in re.findall(r'<figure id="([^"]+)"', page)}


def _figure(picture: Picture) -> str:
    """The picture as an image of its own, so that the ids inside two SVGs cannot meet."""
    data = base64.b64encode(picture.svg).decode()
    image = f'<img alt="{escape(picture.alt)}" src="data:image/svg+xml;base64,{data}">'
    wide = ' class="wide"' if picture.wide else ""
    return f'<figure id="{escape(picture.name)}"{wide}>{image}</figure>'
