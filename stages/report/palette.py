"""Colours of runs."""

from __future__ import annotations

from collections.abc import Sequence

from stages.report.evaluated_run import EvaluatedRun, grouped

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#2c7a7b", "#718096")
"""Of groups of runs, in the order of the table."""

INK, SOFT, GREY = "#1a202c", "#5a6577", "#a0aec0"
"""Of text, of what stands back, and of nulls and references."""


def colours(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    """Colour of every group: runs that differ in the seed have the same."""
    return {group: COLOURS[i % len(COLOURS)] for i, group in enumerate(grouped(runs))}
