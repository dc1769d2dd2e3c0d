"""Colours of runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import to_hex, to_rgb

from stages.report.evaluated_run import EvaluatedRun, grouped

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#2c7a7b", "#718096")
"""Of groups of runs, in the order of the table."""

INK, SOFT, GREY = "#1a202c", "#5a6577", "#a0aec0"
"""Of text, of what stands back, and of nulls and references."""


SHADES = (0.0, 0.4, -0.4, -0.65)
"""How far to white, or below 0 to black, colours are shifted when they come round again."""


def colours(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    """Colour of every group: runs that differ in the seed have the same."""
    return {group: _colour(i) for i, group in enumerate(grouped(runs))}


def _colour(place: int) -> str:
    rounds, base = divmod(place, len(COLOURS))
    shade = SHADES[rounds % len(SHADES)]
    towards = 1.0 if shade > 0 else 0.0
    red, green, blue = (channel + abs(shade) * (towards - channel) for channel in to_rgb(COLOURS[base]))
    return to_hex((red, green, blue))
