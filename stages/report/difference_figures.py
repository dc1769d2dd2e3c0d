"""Figures of what temporal parts bought and cost: a dot with its error a metric, variant minus control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from stages.report.contrast import Comparison, Difference
from stages.report.drawing import SIZE, Picture, legend_below, panel, picture
from stages.report.metric import METRICS, Metric
from stages.report.numeral import MISSING, numeral, signed
from stages.report.palette import GREY, INK, SOFT

ROW = 0.2
"""Inches that a variant takes in the row of a metric."""

RING = 9
"""Points across the ring of the control in permuted order: around the variant's dot, not over it."""
GAP = 0.8
"""Of such rows between two metrics."""


def differences(comparisons: Sequence[Comparison], palette: Mapping[str, str]) -> list[Picture]:
    """Shares in one figure as they are; metrics of other units in another, relative to the control."""
    shown = [comparison for comparison in comparisons if comparison.main]
    if not shown:
        return []
    known = [metric for metric in METRICS if any(each.main.differences[metric.name].n for each in shown if each.main)]
    shares = [metric for metric in known if not metric.relative]
    others = [metric for metric in known if metric.relative]
    rows = (len(shown) + GAP) * max(len(shares), len(others))
    height = max(SIZE[1], 0.9 + ROW * rows)
    figures = (
        ("difference_shares", "Variant minus control", "difference", shares),
        ("difference_relative", "The same in other units", "difference, % of the control", others),
    )
    return [_differences(*figure, shown, palette, height) for figure in figures if figure[-1]]


def _differences(
    name: str,
    title: str,
    label: str,
    metrics: Sequence[Metric],
    shown: Sequence[Comparison],
    palette: Mapping[str, str],
    height: float,
) -> Picture:
    rows = len(shown) + GAP
    with panel(title, label, "", height) as (figure, axes):
        for i, comparison in enumerate(shown):
            for j, metric in enumerate(metrics):
                _dots(axes, comparison, metric, j + (i - (len(shown) - 1) / 2) / rows, palette[comparison.variant])
        _dress(axes, metrics)
        _legend(axes, shown, palette)
        legend_below(figure, axes, columns=2)
    return picture(name, f"{title}, with errors: {', '.join(comparison.variant for comparison in shown)}", figure)


def _dots(axes: Axes, comparison: Comparison, metric: Metric, place: float, colour: str) -> None:
    """The difference of one variant, that of its control in permuted order, and that with permuted inputs."""
    if comparison.main is None:
        return
    d = comparison.main.differences[metric.name]
    unit = _unit(d)
    error = [[np.nan_to_num(unit * d.error)]]
    axes.errorbar([unit * d.mean], [place], xerr=error, fmt="o", color=colour, markersize=6, capsize=3)
    axes.plot([unit * d.null_mean], [place], "d", color=GREY, markersize=5, zorder=1)
    if comparison.permuted:
        permuted = comparison.permuted.differences[metric.name]
        axes.plot([_unit(permuted) * permuted.mean], [place], "o", mfc="none", mec=colour, markersize=RING, zorder=3)
    axes.annotate(
        _value(d),
        (1.02, place),
        xycoords=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color=colour if d.clear else SOFT,
        annotation_clip=False,
    )


def _dress(axes: Axes, metrics: Sequence[Metric]) -> None:
    """Metrics from above to below, what is bought apart from what it costs."""
    axes.axvline(0, color=INK, linewidth=0.9, zorder=0)
    bought = sum(metric.bought for metric in metrics)
    axes.axhline(bought - 0.5, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    axes.set_yticks(
        range(len(metrics)), [metric.title + (" (less: better)" if metric.better < 0 else "") for metric in metrics]
    )
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.margins(x=0.12)


def _legend(axes: Axes, shown: Sequence[Comparison], palette: Mapping[str, str]) -> None:
    for comparison in shown:
        axes.plot([], [], "o", color=palette[comparison.variant], label=comparison.variant)
    if any(comparison.permuted for comparison in shown):
        axes.plot([], [], "o", mfc="none", mec=SOFT, markersize=RING, label="trained in permuted order")
    axes.plot([], [], "d", color=GREY, markersize=5, label="with inputs permuted")


def _unit(d: Difference) -> float:
    """By what a difference is multiplied to be drawn."""
    if not d.metric.relative:
        return 1.0
    return 100 / d.control if d.control else float("nan")


def _value(d: Difference) -> str:
    unit, digits = _unit(d), 1 if d.metric.relative else d.digits
    if not np.isfinite(unit * d.mean):
        return MISSING
    error = f" ± {numeral(unit * d.error, digits)}" if np.isfinite(unit * d.error) else ""
    return signed(unit * d.mean, digits) + error + ("\u00a0%" if d.metric.relative else "")
