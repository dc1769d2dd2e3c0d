"""What was found, in plain sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from stages.evaluate.subject import named
from stages.report.evaluated_run import EvaluatedRun, by_place, grouped
from stages.report.numeral import MISSING, numeral, percent

FEW = 5
"""Variants beside the best that a sentence can list."""
COMPARABLE_L0 = 1.25
"""By this factor more active latents than another run has, and a higher explained variance proves little."""


def finding(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Sentences that state the result: the best variant, the others, and what keeps them from being compared. Seeds are
    averaged; runs of different activations, another layer or store, are not ranked together."""
    return [sentence for members in by_place(runs).values() for sentence in _of_one_place(members)]


def _of_one_place(runs: Sequence[EvaluatedRun]) -> list[str]:
    groups = sorted(map(Group, grouped(runs).values()), key=lambda group: -_sortable(group.explained))
    best, *others = groups
    core = best.runs[0].core
    hook = named(core["sae_cfg_dict"], "hook_name") or f"layer {best.runs[0].setting.layer}"
    tokens = f"{numeral(best.number('variance_tokens'), 0)} heldout tokens"
    sentences = [
        f"On {core['eval_config']['model_name']} at {hook}, {best.label} explains {percent(best.explained)} of the "
        f"variance of {tokens} with {numeral(best.number('l0'), 1)} active latents a token; {_model_keeps(best)}."
    ]
    if others:
        few = len(others) <= FEW
        sentences.append(f"{'; '.join(map(_in_brief, others))}." if few else _in_sum(others))
    sparsest = min((group for group in groups if group.number("l0") > 0), key=lambda g: g.number("l0"), default=best)
    if best.number("l0") > COMPARABLE_L0 * sparsest.number("l0"):
        sentences.append(
            f"{best.label} spends more active latents than {sparsest.label} ({best.number('l0'):.1f} against "
            f"{sparsest.number('l0'):.1f}), so explained variance alone does not rank them."
        )
    sentences += [sentence for run in runs if (sentence := _warning(run))]
    return sentences


class Group:
    """The seeds of a variant as one."""

    def __init__(self, runs: Sequence[EvaluatedRun]) -> None:
        self.runs = runs

    @property
    def label(self) -> str:
        """What sentences call it."""
        return self.runs[0].label if len(self.runs) == 1 else f"{self.runs[0].group} ({len(self.runs)} seeds)"

    @property
    def explained(self) -> float:
        """Explained variance."""
        return self.number("explained_variance_centred")

    def number(self, name: str) -> float:
        """The mean over seeds."""
        return statistics.mean(run.number(name) for run in self.runs)


def _model_keeps(group: Group) -> str:
    """CE score with the standard error of its tokens, which seeds share."""
    score, error = group.number("ce_loss_score"), group.number("ce_loss_score_se")
    return (
        "reading its reconstructions instead of its own activations, the model keeps "
        f"{percent(score)} (± {percent(error)}) of what this layer contributes to predicting the next token"
    )


def _in_brief(group: Group) -> str:
    return (
        f"{group.label} explains {percent(group.explained)} with {numeral(group.number('l0'), 1)} "
        f"active latents and keeps {percent(group.number('ce_loss_score'))}"
    )


def _in_sum(groups: Sequence[Group]) -> str:
    """What many variants come to together."""

    def between(name: str, show: Callable[[float], str]) -> str:
        known = [value for group in groups if math.isfinite(value := group.number(name))]
        return f"{show(min(known))} to {show(max(known))}" if known else MISSING

    return (
        f"{len(groups)} others explain {between('explained_variance_centred', percent)} with "
        f"{between('l0', lambda l0: numeral(l0, 1))} active latents and keep {between('ce_loss_score', percent)}."
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
