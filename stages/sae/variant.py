"""Variants: the schema of a row of `variants.yaml`, and the controls of a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.sae.architecture import NO_PARTS, STRICT_KEYS, PartsRow, Positive, Share, SparsifierRow, Steps, Weight
from stages.sae.model import Initialisation
from store.problem import Problem

Lag = Annotated[int, Field(ge=1)]
Control = Literal["no-temporal", "permuted"]
"""`no-temporal`: the temporal terms have weight 0. `permuted`: the order of tokens within documents is random."""


@dataclass(frozen=True, config=STRICT_KEYS)
class BoostRow:
    """A reconstruction loss that weighs more at first."""

    factor: Positive
    """Its weight during `hold`; 1 at the end."""
    hold: Steps
    """Steps with that weight."""
    back: Steps
    """Steps after these, over which the weight goes linearly to 1."""


@dataclass(frozen=True, config=STRICT_KEYS)
class ScaleRow:
    """A range of lags at which codes should agree."""

    name: str
    """What logs and tables call it."""
    lags: tuple[Lag, Lag]
    """Smallest and largest distance of two tokens of a pair."""
    weight: Weight
    """Weight of the mean over all pairs of the scale, and of the scale's buffer."""

    def __post_init__(self) -> None:
        if self.lags[0] > self.lags[1]:
            raise ValueError("the smallest lag comes first")


@dataclass(frozen=True, config=STRICT_KEYS)
class BufferRow:
    """A memory of a document's codes: for each scale a running mean of the codes from its smallest lag back."""

    sigma: Weight
    """Standard deviation of a buffer at the start of a document, in root mean squares of the codes."""
    mixing: Share
    """Share of each new code in the running mean until the temporal terms have full weight."""
    mixing_after: Share
    """That share from then on."""


@dataclass(frozen=True, config=STRICT_KEYS)
class TemporalRow:
    """Consistency of codes over the tokens of a document: squared differences in the units of the reconstruction."""

    scales: Annotated[tuple[ScaleRow, ...], Field(min_length=1)]
    """Ranges of lags."""
    delay: Steps
    """Steps without temporal terms."""
    ramp: Steps
    """Steps after these, over which their weight rises linearly."""
    latent_weights: Literal["equal", "variance", "variance_share"]
    """How much a latent counts: all the same; by the variance of its codes, in all as much as without weights; or by
    its share of all variance (004, eq. 3 to the letter), which makes the terms d_sae times smaller and more."""
    variance_threshold: Weight
    """Latents with less variance do not count."""
    threshold_unit: Literal["mean_variance", "normalised"]
    """What the threshold is a multiple of: the mean variance of the latents, or 1 in normalised units."""
    buffers: BufferRow | None = None
    """Further terms that pull codes towards the document's memory; null for none."""


@dataclass(frozen=True, config=STRICT_KEYS)
class ObjectiveRow:
    """Weights of the loss terms, in normalised units."""

    l1: Weight
    """Weight of the sum of a token's codes."""
    l1_warmup: Steps
    """Steps over which that weight rises linearly from 0."""
    aux: Weight
    """Weight of the auxiliary loss, in which dead latents model the residual."""
    dead_after_tokens: Annotated[int, Field(gt=0)]
    """A latent that has not fired for so many kept tokens counts as dead."""
    reconstruction_boost: BoostRow | None = None
    """A larger weight of the reconstruction loss at first; null for none."""
    temporal: TemporalRow | None = None
    """Terms that use the order of tokens; null for none."""


@dataclass(frozen=True, config=STRICT_KEYS)
class NoiseRow:
    """Gaussian noise on the gradients that fades with the steps (Neelakantan et al. 2015, arXiv 1511.06807)."""

    scale: Weight
    """Its standard deviation at the first step, in root mean squares of each parameter's gradient."""
    steps: Steps
    """Steps with noise."""


@dataclass(frozen=True, config=STRICT_KEYS)
class OptimizerRow:
    """The optimiser and its learning rate over time."""

    name: Literal["adam"]
    """Adam with betas 0.9 and 0.999."""
    lr: Positive
    """Peak learning rate."""
    warmup: Steps
    """Steps over which the learning rate rises linearly from 0."""
    decay: Annotated[float, Field(ge=0, lt=1)]
    """The last share of the steps, over which the learning rate falls linearly to 0."""
    clip: Positive | None
    """Largest norm of the gradient over all parameters; null for none."""
    noise: NoiseRow | None = None
    """Noise on the clipped gradients; null for none."""


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
    control: Control | None = None
    """What a control takes from its variant; null for a row of its own."""


def control_of(variant: Variant, control: str) -> Variant:
    """`NAME+no-temporal` or `NAME+permuted`: the variant, but for what its temporal terms could gain from order.

    Raises:
        Problem: the variant has no temporal terms, or there is no such control.
    """
    name = f"{variant.name}+{control}"
    temporal = variant.objective.temporal
    if control not in get_args(Control):
        raise Problem(
            f"There is no control {control!r}.",
            where=name,
            expected=" or ".join(f"{variant.name}+{known}" for known in get_args(Control)),
            found=name,
            usage=True,
        )
    if temporal is None or variant.control is not None:
        raise Problem(
            f"{variant.name} has no temporal terms to control for.",
            where=name,
            expected="a row of the table with objective.temporal",
            found=variant.name,
            usage=True,
        )
    objective = variant.objective
    if control == "no-temporal":
        scales = tuple(replace(scale, weight=0.0) for scale in temporal.scales)
        objective = replace(objective, temporal=replace(temporal, scales=scales))
    return replace(variant, name=name, objective=objective, control=control)  # type: ignore[arg-type]
