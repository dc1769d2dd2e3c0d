"""Variants: the schema of a row of `variants.yaml`, and the controls of a row."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal, get_args

from pydantic.dataclasses import dataclass

from stages.sae.architecture import NO_PARTS, STRICT_KEYS, PartsRow, SparsifierRow
from stages.sae.model import Initialisation
from stages.sae.objective_row import ObjectiveRow
from stages.sae.training_row import BatchesRow, OptimizerRow, StoppingRow
from store.problem import Problem

Control = Literal["no-temporal", "permuted"]
"""`no-temporal`: temporal terms have weight 0, parts that need order are not there. `permuted`: the order of tokens
within documents is random."""


@dataclass(frozen=True, config=STRICT_KEYS)
class Variant:
    """A row of the table: where an SAE comes from, its parts and its numbers."""

    name: str
    """The row's key."""
    source: str
    """The publication or the run of a seed."""
    reading: str
    """How the row reads what its source leaves open."""
    sparsifier: SparsifierRow
    """How pre-activations become codes."""
    objective: ObjectiveRow
    """What is minimised."""
    optimizer: OptimizerRow
    """How it is minimised."""
    parts: PartsRow = NO_PARTS
    """What stands around encoder and decoder."""
    initialisation: Initialisation = "tied"
    """How weights are drawn."""
    batches: BatchesRow = BatchesRow()
    """How the windows of a step are put together."""
    stopping: StoppingRow | None = None
    """When training may end early; null for never."""
    reported: str | None = None
    """What its source says came out; null where that is not comparable."""
    layers: Literal["one", "curriculum"] = "one"
    """`curriculum` trains an SAE on each layer that the profile names, one after the other."""
    instrumentation: bool = False
    """Whether the log also has gradient norms of all parameters, statistics of parts, and memory."""
    control: Control | None = None
    """What a control takes from its variant; null for a row of its own."""

    @property
    def numbers(self) -> dict[str, Any]:
        """Everything that decides what is trained: all but the texts."""
        return {key: value for key, value in asdict(self).items() if key not in ("source", "reading", "reported")}

    @property
    def temporal(self) -> bool:
        """Whether its objective or its architecture uses the order of tokens."""
        return bool(self.objective.temporal or self.objective.contrast or self.parts.ordered)


def control_of(variant: Variant, control: str) -> Variant:
    """`NAME+no-temporal` or `NAME+permuted`: the variant, but for what it could gain from order.

    Raises:
        Problem: the variant uses no order, or there is no such control.
    """
    name = f"{variant.name}+{control}"
    if control not in get_args(Control):
        raise Problem(
            f"There is no control {control!r}.",
            where=name,
            expected=" or ".join(f"{variant.name}+{known}" for known in get_args(Control)),
            found=name,
            usage=True,
        )
    if not variant.temporal or variant.control is not None:
        raise Problem(
            f"{variant.name} has no temporal terms or parts to control for.",
            where=name,
            expected="a row of the table with objective.temporal, objective.contrast or a part that needs order",
            found=variant.name,
            usage=True,
        )
    if control == "no-temporal":
        variant = replace(variant, objective=_without_temporal(variant.objective), parts=_without_order(variant.parts))
    return replace(variant, name=name, control=control)  # type: ignore[arg-type]


def _without_temporal(objective: ObjectiveRow) -> ObjectiveRow:
    """The objective, temporal terms without weight."""
    temporal, contrast = objective.temporal, objective.contrast
    if temporal is not None:
        scales = tuple(replace(scale, weight=0.0) for scale in temporal.scales)
        temporal = replace(temporal, scales=scales)
    if contrast is not None:
        contrast = replace(contrast, weight=0.0)
    return replace(objective, temporal=temporal, contrast=contrast)


def _without_order(parts: PartsRow) -> PartsRow:
    """The parts that look at one token only."""
    return PartsRow(residual=parts.residual, norm=parts.norm)
