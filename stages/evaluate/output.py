"""What a caller and a person get of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stages.evaluate.levels import levels_of
from stages.evaluate.temporal.consistency import SCALES


@dataclass(frozen=True)
class EvaluationResult:
    """What the evaluation of one run ended with."""

    name: str
    """`variant/seed`."""
    summary: dict[str, float | int | None]
    """The numbers of `summary.json`."""
    did: str
    """`evaluated`, or `finished before`."""

    def facts(self) -> dict[str, object]:
        """What a person reads first, as text."""
        return facts(self.summary)


def facts(summary: Mapping[str, float | int | None]) -> dict[str, object]:
    """The numbers of a summary that a person reads first, formatted."""

    def number(name: str, form: str) -> str:
        value = summary.get(name)
        return "does not exist" if value is None else format(value, form)

    def with_error(name: str) -> str:
        error = f" ± {number(f'{name}_se', '.4f')}" if summary.get(f"{name}_se") is not None else ""
        return number(name, ".4f") + error

    trained_here = summary.get("steps_planned") is not None

    return {
        "steps": f"{number('steps_done', ',')} of {number('steps_planned', ',')}"
        if trained_here
        else "not trained here",
        "explained variance": f"{number('explained_variance_centred', '.4f')} (centred)",
        "L0": number("l0", ".1f"),
        **{level.title: level.text for level in levels_of(summary)},
        "dead latents": f"{number('dead_latents', ',')} of {number('latents', ',')}",
        "CE score": with_error("ce_loss_score"),
        "KL score": with_error("kl_div_score"),
        **{
            f"TCS {scale}": f"{with_error(f'tcs_{scale}')} "
            f"(inputs permuted {number(f'tcs_{scale}_inputs_permuted', '.4f')})"
            for scale in SCALES
            if f"tcs_{scale}" in summary
        },
        "tokens": f"{number('variance_tokens', ',')} for variance and sparsity, "
        f"{number('reconstruction_tokens', ',')} others through the language model",
    }
