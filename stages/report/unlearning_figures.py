"""Figures of unlearning: what is forgotten against what else is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter

from stages.evaluate.unlearned import KEPT
from stages.report.drawing import DASHED, Picture, legend_below, panel, picture
from stages.report.palette import GREY, INK
from stages.report.unlearning import Comparable, Line

LINEAR = 0.01
"""Nats up to which the axes of losses are linear, and logarithmic beyond."""


def unlearning(groups: Sequence[Comparable]) -> list[Picture]:
    """Two figures a task, a point a setting: answers, and losses on text."""
    return [drawn for group in groups for drawn in (_answers(group), _losses(group))]


def _answers(group: Comparable) -> Picture:
    with panel("Questions still answered", "on everything else", f"on {group.forget_set}") as (figure, axes):
        axes.axvline(KEPT[0], color=GREY, **DASHED)
        axes.plot(1, 1, "+", color=INK, label="untouched")
        for line in group.lines:
            settings = line.sweep.settings
            _points(axes, line, *([each[f"{side}_accuracy"] for each in settings] for side in ("retain", "forget")))
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        legend_below(figure, axes, columns=2)
    alt = f"Accuracy on {group.forget_set} against accuracy on everything else, one point a setting"
    return picture(f"unlearning_{group.name}_answers", alt, figure)


def _losses(group: Comparable) -> Picture:
    with panel("Rise of the loss", "on other text, nats", f"on {group.forget_set}, nats") as (figure, axes):
        for line in group.lines:
            rises = ([line.sweep.rise(each, side) for each in line.sweep.settings] for side in ("retain", "forget"))
            _points(axes, line, *rises)
        for scaled, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scaled("symlog", linthresh=LINEAR)
            axis.set_major_formatter(FormatStrFormatter("%g"))
        axes.axline((0, 0), (1, 1), color=GREY, label="the same on both", **DASHED)
        legend_below(figure, axes, columns=2)
    alt = f"Rise of the loss on text on {group.forget_set} against that on other text, one point a setting"
    return picture(f"unlearning_{group.name}_losses", alt, figure)


def _points(axes: Axes, line: Line, x: Sequence[float], y: Sequence[float]) -> None:
    """Filled where latents are clamped at their own tokens, hollow where longer; a star for RMU."""
    look: dict[str, Any] = {"marker": "o" if line.window else "*", "markersize": 5 if line.window else 10}
    trailing = line.window is not None and line.window > 1
    if trailing:
        look |= {"markerfacecolor": "none"}
    label = f"{line.label}, {line.window} tokens" if trailing else line.label
    axes.plot(x, y, linestyle="none", color=line.colour, label=label, **look)
