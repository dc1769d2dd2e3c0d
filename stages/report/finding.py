"""What was found, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stages.report.evaluated_run import EvaluatedRun
from stages.report.numeral import numeral, percent

COMPARABLE_L0 = 1.25
"""By this factor more active latents than another run has, and a higher explained variance proves little."""


def finding(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Sentences that state the result: the best run, the others, and what keeps them from being compared."""
    ranked = sorted(runs, key=lambda run: -_sortable(run.number("explained_variance_centred")))
    best, *others = ranked
    evaluation = best.core["eval_config"]
    hook = best.core["sae_cfg_dict"].get("metadata", {}).get("hook_name", "the hooked layer")
    tokens = f"{numeral(best.number('variance_tokens'), 0)} heldout tokens"
    sentences = [
        f"On {evaluation['model_name']} at {hook}, {best.label} explains "
        f"{percent(best.number('explained_variance_centred'))} of the variance of {tokens} with "
        f"{numeral(best.number('l0'), 1)} active latents a token; {_model_keeps(best)}."
    ]
    if others:
        sentences.append(f"{'; '.join(_in_brief(run) for run in others)}.")
    sparsest = min((run for run in runs if run.number("l0") > 0), key=lambda run: run.number("l0"), default=best)
    if best.number("l0") > COMPARABLE_L0 * sparsest.number("l0"):
        sentences.append(
            f"{best.label} spends more active latents than {sparsest.label} ({best.number('l0'):.1f} against "
            f"{sparsest.number('l0'):.1f}), so explained variance alone does not rank them."
        )
    sentences += [sentence for run in runs if (sentence := _warning(run))]
    return sentences


def _model_keeps(run: EvaluatedRun) -> str:
    score, error = run.number("ce_loss_score"), run.number("ce_loss_score_se")
    return (
        "reading its reconstructions instead of its own activations, the model keeps "
        f"{percent(score)} (± {percent(error)}) of what this layer contributes to predicting the next token"
    )


def _in_brief(run: EvaluatedRun) -> str:
    return (
        f"{run.label} explains {percent(run.number('explained_variance_centred'))} with {numeral(run.number('l0'), 1)} "
        f"active latents and keeps {percent(run.number('ce_loss_score'))}"
    )


def _warning(run: EvaluatedRun) -> str | None:
    """What makes a run's numbers say little."""
    planned, done = run.number("steps_planned"), run.number("steps_done")
    if run.number("l0") == 0:
        return f"{run.label} is dead: no latent ever fires."
    if done < planned:
        return f"{run.label} stopped after {done:,.0f} of {planned:,.0f} steps."
    return None


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
