"""How figures look and how they become files: a panel each, so that a page can put them side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator, NullFormatter

DASHED: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 1.1}
"""Lines of nulls and of untrained SAEs."""

SIZE = (4.9, 3.1)
"""Inches of a panel: text stays readable when it is as narrow as a phone."""
MANY = 12
"""Names above which a panel takes the width of the page."""
WIDE = (10.2, 6.4)
"""Inches that it has then."""

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

LEGEND_ROW = 0.2
"""Inches that a row of a legend below the axes takes."""


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
    wide: bool
    """Whether it takes the width of the page."""


@contextmanager
def panel(title: str, x_label: str, y_label: str, height: float = SIZE[1]) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one pair of axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        yield figure, axes


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend below the axes, for more entries than fit between lines; the figure grows by its rows."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        if len(handles) > MANY:
            figure.set_size_inches(WIDE[0], max(WIDE[1], figure.get_figheight()))
        if figure.get_figwidth() > SIZE[0]:
            columns *= 2
        rows = -(-len(handles) // columns)
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * rows)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=1.8)


def scale_axes(axes: Axes, log: bool) -> None:
    """Steps below, and values that can be read on a logarithmic axis of any span."""
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def picture(name: str, alt: str, figure: Figure) -> Picture:
    """Render without the date and version that matplotlib writes, so that equal inputs make equal bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    return Picture(name, alt, svg.getvalue(), png.getvalue(), wide=figure.get_figwidth() > SIZE[0])
