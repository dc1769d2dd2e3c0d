"""Points with labels, one a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.report.drawing import MANY, WIDE
from stages.report.evaluated_run import EvaluatedRun

AROUND = (0.9, 0.9)
"""Inches of a figure beside and above and below its axes, about."""

LETTER = (6.0, 10.5)
"""Width and height of a letter of a label in points, about."""

DISTANCE = 8.0
"""Points from a point to its label."""


@dataclass(frozen=True)
class Box:
    """What a label or a point covers, in points from the lower left corner of the axes."""

    left: float
    bottom: float
    width: float
    height: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        across = self.left < other.left + other.width and other.left < self.left + self.width
        return across and self.bottom < other.bottom + other.height and other.bottom < self.bottom + self.height

    def inside(self, size: tuple[float, float]) -> bool:
        """Whether it is within axes of such a size."""
        return 0 <= self.left <= size[0] - self.width and 0 <= self.bottom <= size[1] - self.height


def scatter(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[EvaluatedRun, float, float, float]],
    colours: Mapping[str, str],
) -> None:
    """A point a run, given with x, y and the error of y; those without x or y are left out.

    Runs that differ in the seed share a colour, and one label. For many labels the figure becomes wider.
    """
    points = [point for point in points if np.isfinite(point[1:3]).all()]
    if len({run.group for run, *_ in points}) > MANY:
        figure.set_size_inches(*WIDE)
    size = tuple(72 * (whole - around) for whole, around in zip(figure.get_size_inches(), AROUND, strict=True))
    for run, x, y, error in points:
        axes.errorbar([x], [y], yerr=[np.nan_to_num(error)], fmt="o", color=colours[run.group], markersize=7, capsize=3)
    axes.margins(x=0.25, y=0.3)
    if all(x >= 0 for _, x, _, _ in points):
        axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    at = [(size[0] * (x - left) / (right - left), size[1] * (y - bottom) / (top - bottom)) for _, x, y, _ in points]
    taken = [Box(x - 4, y - 4, 8, 8) for x, y in at]
    labelled = set()
    for (run, x, y, _), place in zip(points, at, strict=True):
        if run.group in labelled:
            continue
        labelled.add(run.group)
        box = _room(run.group, place, taken, size)
        taken.append(box)
        right = box.left > place[0]
        shift = box.bottom + box.height / 2 - place[1]
        axes.annotate(
            run.group,
            (x, y),
            (DISTANCE if right else -DISTANCE, shift),
            ha="left" if right else "right",
            va="center",
            textcoords="offset points",
            fontsize=8.5,
            color=colours[run.group],
            weight="bold",
            arrowprops=_leader(colours[run.group], right) if abs(shift) > DISTANCE else None,
        )


def _leader(colour: str, right: bool) -> dict[str, Any]:
    """A thin line from a point to the near end of a label that had to make room."""
    return {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0.0 if right else 1.0, 0.5)}


def _room(label: str, place: tuple[float, float], taken: Sequence[Box], size: tuple[float, float]) -> Box:
    """The nearest place beside a point where its label meets nothing; beside it where there is none."""
    width, height = LETTER[0] * len(label), LETTER[1]
    candidates = [
        Box(place[0] + (DISTANCE if right else -DISTANCE - width), place[1] - height / 2 + sign * shift, width, height)
        for shift in np.arange(0, size[1], height / 2)
        for sign in (1, -1)
        for right in (place[0] < size[0] / 2, place[0] >= size[0] / 2)
    ]
    free = (box for box in candidates if box.inside(size) and not any(box.meets(other) for other in taken))
    return next(free, candidates[0])
