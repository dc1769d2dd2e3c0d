"""Figures of temporal metrics: how long codes last, and at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from stages.evaluate.temporal.consistency import SCALES
from stages.report.drawing import DASHED, Picture, legend_below, panel, picture
from stages.report.evaluated_run import EvaluatedRun, by_place, grouped
from stages.report.palette import GREY, SOFT, colours
from stages.report.scatter import scatter

TCS_NULLS = {"inputs_permuted": "x", "codes_permuted": "+", "untrained": "1"}
"""Nulls that have no business being high, and their marks."""


def autocorrelation(runs: Sequence[EvaluatedRun]) -> list[Picture]:
    """Mean autocorrelation of codes over lags, a line a run; nothing where it was not measured."""
    measured = [run for run in runs if run.temporal is not None]
    if not measured:
        return []
    with panel("Autocorrelation of codes", "lag (tokens)", "mean over latents") as (figure, axes):
        for group, members in grouped(measured).items():
            for i, run in enumerate(members):
                colour = colours(runs)[group]
                _plot(axes, run, "codes", color=colour, label="_" if i else group)
                _plot(axes, run, "codes_inputs_permuted", color=colour, label="_", **DASHED)
        axes.plot([], [], color=SOFT, label="inputs permuted", **DASHED)
        for place, members in by_place(measured).items():
            raw, permuted = (", ".join(filter(None, (label, place))) for label in ("raw activations", "raw, permuted"))
            _plot(axes, members[0], "activations", color=GREY, label=raw, linewidth=2.2, zorder=1)
            _plot(axes, members[0], "activations_permuted", color=GREY, label=permuted, zorder=1, **DASHED)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        legend_below(figure, axes, columns=2)
    alt = "Autocorrelation of the codes over lags, one line a run, with nulls and the raw activations"
    return [picture("autocorrelation", alt, figure)]


def tcs_against_variance(runs: Sequence[EvaluatedRun]) -> list[Picture]:
    """TCS against explained variance, a panel a scale that has numbers, a point a run and its nulls in grey."""
    measured = [run for run in runs if run.temporal is not None]
    return [_tcs(measured, scale, colours(runs)) for scale in SCALES if any(_has_tcs(run, scale) for run in measured)]


def _tcs(runs: Sequence[EvaluatedRun], scale: str, palette: Mapping[str, str]) -> Picture:
    name = f"tcs_{scale}"
    title = f"TCS at {scale} lags against explained variance"
    with panel(title, "explained variance, heldout, centred", f"TCS {scale}") as (figure, axes):
        for null, mark in TCS_NULLS.items():
            variances = [run.number("explained_variance_centred") for run in runs]
            nulls = [run.number(f"{name}_{null}") for run in runs]
            axes.plot(variances, nulls, mark, color=GREY, markersize=6, label=null.replace("_", " "), zorder=1)
        scatter(
            figure,
            axes,
            [
                (run, run.number("explained_variance_centred"), run.number(name), run.number(f"{name}_se"))
                for run in runs
            ],
            palette,
        )
        legend_below(figure, axes, columns=3)
    return picture(f"{name}_against_explained_variance", f"{title}, one point a run, nulls in grey", figure)


def _plot(axes: Axes, run: EvaluatedRun, measure: str, **look: Any) -> None:
    measures = run.temporal["measures"] if run.temporal else {}
    values = np.array((measures.get(measure) or {}).get("autocorrelation") or [], dtype=np.float64)
    axes.plot(np.arange(1, len(values) + 1), values, **look)


def _has_tcs(run: EvaluatedRun, scale: str) -> bool:
    return bool(np.isfinite(run.number(f"tcs_{scale}")))
