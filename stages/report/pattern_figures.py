"""Figures of patterns of activation: how long latents stay active, and where the active set changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.evaluate.catalogue import CATALOGUE
from stages.report.drawing import DASHED, Picture, legend_below, panel, picture
from stages.report.evaluated_run import EvaluatedRun, grouped
from stages.report.palette import GREY, SOFT, colours
from stages.report.temporal_tables import has_patterns

LOOKS: dict[str, dict[str, Any]] = {"codes": {}, "codes_inputs_permuted": DASHED}
"""Measures that are drawn, and how their lines look."""
PLACES = {
    "turnover_interior": "within\nsentences",
    "turnover_sentence_boundary": "at ends of\nsentences",
    "turnover_document_boundary": "at ends of\ndocuments",
}
"""Where the active set changes, and what the figure calls it."""


def patterns(runs: Sequence[EvaluatedRun]) -> list[Picture]:
    """Both figures; none where patterns were not measured."""
    return [*_lifetimes(runs), _turnover(runs)] if has_patterns(runs) else []


def _lifetimes(runs: Sequence[EvaluatedRun]) -> list[Picture]:
    """One figure; none where no latent fires often enough for a lifetime."""
    lines = [(deciles, look) for found, look in _lines(runs) if (deciles := _deciles(found))]
    if not lines:
        return []
    title = "Lifetime against chance, by density"
    with panel(title, "share of tokens at which latents are active", "1: as independent firings") as (figure, axes):
        for deciles, look in lines:
            axes.plot([each["density"] for each in deciles], [each["ratio"] for each in deciles], **look)
        axes.plot([], [], color=SOFT, label="inputs permuted", **DASHED)
        axes.axhline(1, color=GREY, linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        legend_below(figure, axes, columns=2)
    return [picture("lifetimes", f"{title}: medians of ten groups of latents, one line a run", figure)]


def _deciles(measure: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The groups of latents that have a lifetime."""
    return [each for each in measure["patterns"]["lifetime"]["deciles"] if each["ratio"] is not None]


def _turnover(runs: Sequence[EvaluatedRun]) -> Picture:
    title = "Turnover of the active set"
    with panel(title, "", "0: it stays, 1: nothing of it does") as (figure, axes):
        for found, look in _lines(runs):
            values = [CATALOGUE[name].at(found) for name in PLACES]
            axes.plot(range(len(PLACES)), [float("nan") if v is None else v for v in values], marker="o", **look)
        axes.plot([], [], color=SOFT, label="inputs permuted", **DASHED)
        axes.set_xticks(range(len(PLACES)), list(PLACES.values()))
        axes.margins(x=0.15)
        legend_below(figure, axes, columns=2)
    return picture(
        "turnover", f"{title} within sentences and at ends of sentences and documents, one line a run", figure
    )


def _lines(runs: Sequence[EvaluatedRun]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Measures that have patterns, and how to draw them; the first of a group has a label."""
    for group, members in grouped(runs).items():
        label = group
        for run in members:
            for name, look in LOOKS.items():
                found = (run.temporal or {"measures": {}})["measures"].get(name)
                if found and found.get("patterns"):
                    yield (
                        found,
                        {"color": colours(runs)[group], "label": "_" if look else label, "markersize": 4, **look},
                    )
            label = "_"
