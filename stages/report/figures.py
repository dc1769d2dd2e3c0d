"""Figures: a panel each, so that a page can put them side by side or below each other."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator, NullFormatter

from stages.report.evaluated_run import EvaluatedRun

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#2c7a7b", "#718096")
"""Of runs, in the order of the table."""

SIZE = (4.9, 3.1)
"""Inches of a panel: text stays readable when it is as narrow as a phone."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#4a5568",
    "axes.edgecolor": "#a0aec0",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf1",
    "grid.linewidth": 0.8,
    "xtick.color": "#4a5568",
    "ytick.color": "#4a5568",
    "text.color": "#1a202c",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "tsae-pipeline",
}

CURVES = (
    ("explained_variance", "Explained variance", "of the training batch, centred", False),
    ("loss/reconstruction", "Reconstruction loss", "normalised units", True),
    ("l0", "Active latents a token (L0)", "", True),
    ("dead_latents", "Dead latents", "as training counts them", False),
)
"""Metric, title, what the axis shows, whether it is logarithmic."""


@dataclass(frozen=True)
class Picture:
    """A figure in the two forms in which it is used."""

    name: str
    """File name without suffix."""
    alt: str
    """What it shows, for who cannot see it."""
    svg: bytes
    """For the page."""
    png: bytes
    """For slides and papers."""


def colour(index: int) -> str:
    """Colour of the run at this row of the table."""
    return COLOURS[index % len(COLOURS)]


def pictures(runs: Sequence[EvaluatedRun]) -> dict[str, list[Picture]]:
    """All figures, by section: `comparison`, `training`, `loss`."""
    return {
        "comparison": [
            against_l0(runs, "explained_variance_centred", "Explained variance against L0", "heldout, centred"),
            against_l0(runs, "ce_loss_score", "CE score against L0", "1: predicts as without SAE"),
        ],
        "training": [training_curve(runs, *curve) for curve in CURVES if any(curve[0] in r.curves for r in runs)],
        "loss": [loss_terms(run) for run in runs if "loss/total" in run.curves],
    }


def against_l0(runs: Sequence[EvaluatedRun], metric: str, title: str, label: str) -> Picture:
    """A metric against L0, a labelled point a run with its standard error where it has one."""
    l0s = [run.number("l0") for run in runs if np.isfinite(run.number("l0"))]
    middle = (min(l0s) + max(l0s)) / 2 if l0s else 0.0
    with _panel(title, "active latents a token (L0)", label) as (figure, axes):
        for i, run in enumerate(runs):
            x, y = run.number("l0"), run.number(metric)
            if not np.isfinite([x, y]).all():
                continue
            error = np.nan_to_num(run.number(f"{metric}_se"))
            axes.errorbar([x], [y], yerr=[error], fmt="o", color=colour(i), markersize=7, capsize=3)
            left = x > middle
            axes.annotate(
                run.label,
                (x, y),
                (-8 if left else 8, 5),
                ha="right" if left else "left",
                textcoords="offset points",
                fontsize=8.5,
                color=colour(i),
                weight="bold",
            )
        axes.margins(x=0.25, y=0.3)
    return _picture(f"{metric}_against_l0", f"{title}, one point a run", figure)


def training_curve(runs: Sequence[EvaluatedRun], metric: str, title: str, label: str, log: bool) -> Picture:
    """A logged metric over steps, a line a run."""
    with _panel(title, "step", label) as (figure, axes):
        for i, run in enumerate(runs):
            if metric in run.curves:
                curve = run.curves[metric]
                axes.plot(curve.step, curve.value, color=colour(i), label=run.label)
        _scales(axes, log)
        if metric == "explained_variance":
            axes.set_ylim(bottom=max(-0.1, axes.get_ylim()[0]), top=1)
        if metric == "dead_latents":
            axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
        axes.legend()
    return _picture(f"training_{metric.replace('/', '_')}", f"{title} over training steps, one line a run", figure)


def loss_terms(run: EvaluatedRun) -> Picture:
    """The terms of one run's loss over steps."""
    terms = {
        name.removeprefix("loss/"): curve
        for name, curve in run.curves.items()
        if name.startswith("loss/") and (curve.value > 0).any()
    }
    with _panel(f"Loss of {run.label} by term", "step", "weighted, normalised units") as (figure, axes):
        for i, (name, curve) in enumerate(sorted(terms.items(), key=lambda item: item[0] != "total")):
            style = (
                {"color": "#1a202c", "linewidth": 1.1, "linestyle": (0, (4, 2)), "zorder": 3}
                if name == "total"
                else {"color": COLOURS[i - 1]}
            )
            axes.plot(curve.step, np.where(curve.value > 0, curve.value, np.nan), label=name, **style)
        _scales(axes, log=True)
        axes.legend(ncols=2)
    name = f"loss_{run.name.replace('/', '_')}"
    return _picture(name, f"Loss terms of {run.label} over training steps: {', '.join(terms)}", figure)


def _scales(axes: Axes, log: bool) -> None:
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


@contextmanager
def _panel(title: str, x_label: str, y_label: str) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        yield figure, axes


def _picture(name: str, alt: str, figure: Figure) -> Picture:
    """Render without the date and version that matplotlib writes, so that equal inputs make equal bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Picture(name, alt, svg.getvalue(), png.getvalue())
