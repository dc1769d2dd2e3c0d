"""Figures of the course of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.report.drawing import Picture, legend_below, panel, picture, scale_axes
from stages.report.evaluated_run import Curve, EvaluatedRun, grouped
from stages.report.palette import INK, SOFT, colours

CURVES = (
    ("explained_variance", "Explained variance", "of the training batch, centred", False),
    ("loss/reconstruction", "Reconstruction loss", "weighted, normalised units", True),
    ("l0", "Active latents a token (L0)", "", True),
    ("dead_latents", "Dead latents", "as training counts them", False),
)
"""Metric, title, what the axis shows, whether it is logarithmic."""

TERM_COLOURS = {
    "total": INK,
    "reconstruction": "#2b6cb0",
    "l1": "#b7791f",
    "aux": "#718096",
    "short": "#c05621",
    "medium": "#2f855a",
    "long": "#805ad5",
}
"""Of a loss's terms; those of a scale share its colour. In the order of the legend."""

DASHES: dict[str, Any] = {"total": (0, (4, 2)), "buffer": (0, (1, 1)), "gradient": (0, (4, 2))}
"""Of kinds of lines that are not solid."""


def training_curve(runs: Sequence[EvaluatedRun], metric: str, title: str, label: str, log: bool) -> Picture:
    """A logged metric over steps, a line a run; seeds of a variant share a colour and an entry of the legend."""
    with panel(title, "step", label) as (figure, axes):
        for group, members in grouped(runs).items():
            lines = [run.curves[metric] for run in members if metric in run.curves]
            for i, curve in enumerate(lines):
                axes.plot(curve.step, curve.value, color=colours(runs)[group], label="_" if i else group)
        scale_axes(axes, log)
        if metric == "explained_variance":
            axes.set_ylim(bottom=max(-0.1, axes.get_ylim()[0]), top=1)
        if metric == "dead_latents":
            axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
        legend_below(figure, axes, columns=2)
    return picture(f"training_{metric.replace('/', '_')}", f"{title} over training steps, one line a run", figure)


def loss_terms(run: EvaluatedRun) -> Picture | None:
    """The terms of one run's loss over steps; None without a log."""
    terms = {name.replace("_", " "): curve for name, curve in _logged(run, "loss/").items()}
    if "total" not in terms:
        return None
    return _lines(f"loss_{_file(run)}", f"Loss of {run.label} by term", "weighted, normalised units", terms)


def temporal_share(run: EvaluatedRun) -> Picture | None:
    """What the temporal terms weigh beside reconstruction, scale by scale; None for a run without such terms."""
    terms = {f"loss {scale}": curve for scale, curve in _logged(run, "temporal/ratio_").items()}
    terms |= {f"gradient {scale}": curve for scale, curve in _logged(run, "temporal/gradient_").items()}
    if not terms:
        return None
    return _lines(f"temporal_{_file(run)}", f"Temporal terms of {run.label}", "relative to reconstruction", terms)


def _lines(name: str, title: str, label: str, terms: Mapping[str, Curve]) -> Picture:
    """Terms that are called by their kind and, where they have one, their scale."""
    order = {term: i for i, term in enumerate(TERM_COLOURS)}
    by_kind = sorted(terms, reverse=True)  # temporal before buffer, loss before gradient
    shown = sorted(by_kind, key=lambda term: order.get(term.split()[-1], len(order)))
    with panel(title, "step", label) as (figure, axes):
        for term in shown:
            kind, scale = term.split()[0], term.split()[-1]
            axes.plot(
                terms[term].step,
                np.where(terms[term].value > 0, terms[term].value, np.nan),
                label=term,
                color=TERM_COLOURS.get(scale, SOFT),
                linestyle=DASHES.get(kind, "solid"),
                linewidth=1.1 if kind in DASHES else 1.6,
                zorder=3 if kind == "total" else 2,
            )
        scale_axes(axes, log=True)
        legend_below(figure, axes, columns=3)
    return picture(name, f"{title} over training steps: {', '.join(shown)}", figure)


def _logged(run: EvaluatedRun, prefix: str) -> dict[str, Curve]:
    """Metrics by what follows the prefix, as far as they are ever above 0 and a logarithmic axis can show them."""
    found = {name.removeprefix(prefix): curve for name, curve in run.curves.items() if name.startswith(prefix)}
    return {name: curve for name, curve in found.items() if (curve.value > 0).any()}


def _file(run: EvaluatedRun) -> str:
    return run.name.replace("/", "_")
