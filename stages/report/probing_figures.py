"""Figures of probes: how well few latents tell classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, NullLocator

from stages.evaluate.catalogue import PROBED
from stages.report.drawing import DASHED, Picture, legend_below, panel, picture
from stages.report.evaluated_run import EvaluatedRun, by_place, grouped
from stages.report.palette import GREY, SOFT, colours
from stages.report.probing_tables import tasks_of

REFERENCES = {"activations": ("all dimensions of the activations", 2.2), "majority": ("most frequent class", 1.1)}
"""What no latents decide: labels and widths of its lines."""


def probes(runs: Sequence[EvaluatedRun]) -> list[Picture]:
    """Accuracy over the number of latents, a panel a task that was asked, a line a run."""
    return [drawn for task, title in PROBED.items() if (drawn := _task(task, title, runs))]


def _task(task: str, title: str, runs: Sequence[EvaluatedRun]) -> Picture | None:
    scores = {run.name: found for run in runs if (found := tasks_of(run).get(task, {}).get("scores", {})).get("codes")}
    told = [run for run in runs if run.name in scores]
    if not told:
        return None
    with panel(title, "latents a class", "accuracy on heldout documents") as (figure, axes):
        for group, members in grouped(told).items():
            for i, run in enumerate(members):
                colour = colours(runs)[group]
                _line(axes, scores[run.name]["codes"], label="_" if i else group, color=colour, marker="o")
                _line(axes, scores[run.name]["untrained"], label="_", color=colour, **DASHED)
        axes.plot([], [], color=SOFT, label="untrained", **DASHED)
        for place, members in by_place(told).items():
            for signal, (label, width) in REFERENCES.items():
                accuracy = scores[members[0].name][signal]["all"]["accuracy"]
                named = ", ".join(filter(None, (label, place)))
                axes.axhline(accuracy, color=GREY, linewidth=width, zorder=1, label=named)
        ks = sorted({int(k) for found in scores.values() for k in found["codes"]})
        axes.set_xscale("log")
        axes.set_xticks(ks)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        legend_below(figure, axes, columns=2)
    return picture(f"probe_{task}", f"{title}: accuracy of probes over the latents they read, one line a run", figure)


def _line(axes: Axes, scores: dict[str, Any], **look: Any) -> None:
    """Accuracy by k, with standard errors where it has a marker."""
    ks = sorted(map(int, scores))
    accuracy, errors = ([scores[str(k)][name] for k in ks] for name in ("accuracy", "accuracy_se"))
    axes.errorbar(ks, accuracy, yerr=errors if "marker" in look else None, markersize=4, capsize=2, **look)
