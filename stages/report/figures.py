"""All figures of the page, and those that set what runs explain against what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.report.contrast import Comparison
from stages.report.difference_figures import differences
from stages.report.drawing import Picture, panel, picture
from stages.report.evaluated_run import EvaluatedRun
from stages.report.palette import colours
from stages.report.pattern_figures import patterns
from stages.report.probing_figures import probes
from stages.report.scatter import scatter
from stages.report.temporal_figures import autocorrelation, tcs_against_variance
from stages.report.training_figures import CURVES, loss_terms, temporal_share, training_curve
from stages.report.unlearning import Comparable
from stages.report.unlearning_figures import unlearning

MATCHED = (
    ("tcs_short", "TCS at short lags against L0", "autocorrelation, lags 1 to 4"),
    ("lifetime_ratio", "Lifetime against chance, against L0", "1: as independent firings"),
)
"""Metric, title and axis of the figures of equal sparsity."""


def pictures(
    runs: Sequence[EvaluatedRun], comparisons: Sequence[Comparison], unlearned: Sequence[Comparable]
) -> dict[str, list[Picture]]:
    """All figures, by section: `contrast`, `matched`, `comparison`, `temporal`, `patterns`, `probing`, `unlearning`,
    `training`, `loss`."""
    return {
        "contrast": differences(comparisons, colours(runs)),
        "matched": [against_l0(runs, *each) for each in MATCHED if comparisons and _has(runs, each[0])],
        "comparison": [
            against_l0(runs, "explained_variance_centred", "Explained variance against L0", "heldout, centred"),
            against_l0(runs, "ce_loss_score", "CE score against L0", "1: predicts as without SAE"),
        ],
        "temporal": [*autocorrelation(runs), *tcs_against_variance(runs)],
        "patterns": patterns(runs),
        "probing": probes(runs),
        "unlearning": unlearning(unlearned),
        "training": [training_curve(runs, *curve) for curve in CURVES if any(curve[0] in r.curves for r in runs)],
        "loss": [drawn for run in runs for drawn in (loss_terms(run), temporal_share(run)) if drawn],
    }


def _has(runs: Sequence[EvaluatedRun], metric: str) -> bool:
    return any(np.isfinite(run.number(metric)) for run in runs)


def against_l0(runs: Sequence[EvaluatedRun], metric: str, title: str, label: str) -> Picture:
    """A metric against L0, a labelled point a run with its standard error where it has one."""
    with panel(title, "active latents a token (L0)", label) as (figure, axes):
        points = [(run, run.number("l0"), run.number(metric), run.number(f"{metric}_se")) for run in runs]
        scatter(figure, axes, points, colours(runs))
    return picture(f"{metric}_against_l0", f"{title}, one point a run", figure)
