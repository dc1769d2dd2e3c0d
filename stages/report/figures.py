"""All figures of the page, and those that set what runs explain against what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from stages.report.contrast import Comparison
from stages.report.difference_figures import differences
from stages.report.drawing import Picture, panel, picture
from stages.report.evaluated_run import EvaluatedRun
from stages.report.palette import colours
from stages.report.scatter import scatter
from stages.report.temporal_figures import autocorrelation, tcs_against_variance
from stages.report.training_figures import CURVES, loss_terms, temporal_share, training_curve


def pictures(runs: Sequence[EvaluatedRun], comparisons: Sequence[Comparison]) -> dict[str, list[Picture]]:
    """All figures, by section: `contrast`, `comparison`, `temporal`, `training`, `loss`."""
    return {
        "contrast": differences(comparisons, colours(runs)),
        "comparison": [
            against_l0(runs, "explained_variance_centred", "Explained variance against L0", "heldout, centred"),
            against_l0(runs, "ce_loss_score", "CE score against L0", "1: predicts as without SAE"),
        ],
        "temporal": [*autocorrelation(runs), *tcs_against_variance(runs)],
        "training": [training_curve(runs, *curve) for curve in CURVES if any(curve[0] in r.curves for r in runs)],
        "loss": [drawn for run in runs for drawn in (loss_terms(run), temporal_share(run)) if drawn],
    }


def against_l0(runs: Sequence[EvaluatedRun], metric: str, title: str, label: str) -> Picture:
    """A metric against L0, a labelled point a run with its standard error where it has one."""
    with panel(title, "active latents a token (L0)", label) as (figure, axes):
        points = [(run, run.number("l0"), run.number(metric), run.number(f"{metric}_se")) for run in runs]
        scatter(axes, points, colours(runs))
    return picture(f"{metric}_against_l0", f"{title}, one point a run", figure)
