"""Tables of runs: single ones, means over seeds, and every number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from stages.evaluate.levels import levels_of
from stages.report.cells import Cell, plain, row, share, table
from stages.report.evaluated_run import EvaluatedRun, grouped
from stages.report.metric import DEAD, KL, L0, QUALITY, TCS, Metric
from stages.report.numeral import MISSING, numeral, percent
from stages.report.palette import colours


def runs_table(runs: Sequence[EvaluatedRun]) -> str:
    """One row a run: the numbers that decide."""
    head = ["Run", "Steps", "Explained variance", "L0", "Dead latents", "CE score", "KL score"]
    temporal = has_temporal(runs)
    head += [metric.title for metric in TCS] if temporal else []
    rows = []
    for run in runs:
        cells = [
            _steps(run),
            share(run, "explained_variance_centred"),
            _l0(run),
            _dead(run),
            share(run, "ce_loss_score"),
            share(run, "kl_div_score"),
            *([_tcs(run, metric) for metric in TCS] if temporal else []),
        ]
        rows.append(row(run.label, head[1:], cells, colours(runs)[run.group]))
    return table("runs dense" if temporal else "runs", head, rows)


def seeds_table(runs: Sequence[EvaluatedRun]) -> str:
    """One row a variant: mean and standard deviation over its seeds. Empty where no variant has several."""
    groups = grouped(runs)
    if all(len(group) == 1 for group in groups.values()):
        return ""
    metrics = [QUALITY[0], L0, DEAD, QUALITY[1], KL, *(TCS if has_temporal(runs) else ())]
    head = ["Variant", "Seeds", *(metric.title for metric in metrics)]
    rows = [
        row(
            label,
            head[1:],
            [Cell(str(len(group))), *(_over_seeds(group, metric) for metric in metrics)],
            colours(runs)[label],
        )
        for label, group in groups.items()
    ]
    return f"<h3>Mean ± standard deviation over seeds</h3>{table('runs dense', head, rows)}<h3>Single runs</h3>"


def levels_table(runs: Sequence[EvaluatedRun]) -> str:
    """One row a Matryoshka level. Empty where no run has levels."""
    head = ["Run", "Level", "L0", "Alive", "Explained variance", "Smoothness"]
    rows = []
    for run in runs:
        for level in levels_of(run.summary):
            cells = [
                Cell(level.title, small="collapsed" if level.collapsed else ""),
                Cell(numeral(level.l0, 1)),
                Cell(percent(level.alive)),
                Cell(numeral(level.explained_variance, 4), small="with those before it"),
                Cell(numeral(level.smoothness, 4), small=f"null {numeral(level.smoothness_null, 4)}"),
            ]
            rows.append(row(run.label, head[1:], cells, colours(runs)[run.group]))
    return f"<h3>Levels</h3>{table('runs dense', head, rows)}" if rows else ""


def numbers_table(runs: Sequence[EvaluatedRun]) -> str:
    """Every number of the evaluations, a row a number."""
    names = list(dict.fromkeys(name for run in runs for name in run.summary))
    rows = []
    for name in names:
        cells = "".join(f"<td>{plain(run.summary.get(name))}</td>" for run in runs)
        rows.append(f'<tr><th scope="row"><code>{escape(name)}</code></th>{cells}</tr>')
    return f'<div class="scroll">{table("numbers", ["", *(run.label for run in runs)], rows)}</div>'


def has_temporal(runs: Sequence[EvaluatedRun]) -> bool:
    """Whether temporal metrics were measured on any run."""
    return any(run.temporal is not None for run in runs)


def _over_seeds(group: Sequence[EvaluatedRun], metric: Metric) -> Cell:
    values = np.array([value for run in group if math.isfinite(value := run.number(metric.name))])
    if not len(values):
        return Cell(MISSING)
    digits = max(metric.digits, 1) if len(values) > 1 else metric.digits
    small = f"± {numeral(values.std(ddof=1), digits)}" if len(values) > 1 else ""
    few = f" (n = {len(values)})" if len(values) < len(group) else ""
    return Cell(numeral(values.mean(), digits), small + few)


def _tcs(run: EvaluatedRun, metric: Metric) -> Cell:
    if run.temporal is None:
        return Cell(MISSING)
    value, null = run.number(metric.name), run.number(f"{metric.name}_inputs_permuted")
    if not math.isfinite(value):
        return Cell("too few")
    return Cell(numeral(value, metric.digits), f"null {numeral(null, metric.digits)}")


def _steps(run: EvaluatedRun) -> Cell:
    done, planned, tokens = (run.number(name) for name in ("steps_done", "steps_planned", "training_tokens"))
    if not math.isfinite(planned):
        return Cell("not trained here")
    return Cell(f"{numeral(done, 0)} of {numeral(planned, 0)}", small=f"{numeral(tokens / 1e6, 2)} M tokens")


def _l0(run: EvaluatedRun) -> Cell:
    error = run.number("l0_se")
    return Cell(numeral(run.number("l0"), L0.digits), f"± {numeral(error, 2)}" if math.isfinite(error) else "")


def _dead(run: EvaluatedRun) -> Cell:
    dead, latents = run.number("dead_latents"), run.number("latents")
    part = f", {dead / latents:.1%}" if latents > 0 and math.isfinite(dead) else ""
    return Cell(numeral(dead, 0), small=f"of {numeral(latents, 0)}{part}")
