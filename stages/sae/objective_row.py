"""The schema of a variant's objective: its loss terms, in normalised units."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from stages.names import fit
from stages.sae.architecture import STRICT_KEYS, Positive, Share, Steps, Weight

Lag = Annotated[int, Field(ge=1)]


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

    name: Annotated[str, AfterValidator(fit)]
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
class AdaptiveRow:
    """A bound on each scale's loss: its weight shrinks where the running mean of the weighted loss exceeds it."""

    limit: Positive
    """Largest share of a scale's weighted loss in the running mean of the reconstruction loss."""
    following: Share
    """Share of each step in the running means."""


@dataclass(frozen=True, config=STRICT_KEYS)
class DecayRow:
    """Temporal weights that fall exponentially after their ramp."""

    half_life: Share
    """In shares of the steps that are left after the ramp."""
    floor: Annotated[float, Field(ge=0, le=1)]
    """Share of the weights below which they do not fall."""


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
    over_lags: Literal["mean", "sum"] = "mean"
    """A scale's loss is the mean over its pairs, or (004, eq. 1 to the letter) the sum over its lags of the mean
    over tokens, which lets the scale with the most lags dominate."""
    adaptive: AdaptiveRow | None = None
    """A bound on the size of each scale; null for none."""
    decay: DecayRow | None = None
    """A fall of the weights after the ramp; null for none."""

    def __post_init__(self) -> None:
        if len({scale.name for scale in self.scales}) < len(self.scales):
            raise ValueError("scales have names of their own")


def width_of(share: float, d_sae: int) -> int:
    """How many latents a share of them is."""
    return max(1, round(share * d_sae))


@dataclass(frozen=True, config=STRICT_KEYS)
class LevelRow:
    """A reconstruction from the first latents alone (Bussmann et al. 2025, arXiv 2503.17547)."""

    share: Share
    """Share of the latents that it may use."""
    weight: Positive
    """Weight of its loss."""


def spans_of(widths: Iterable[int]) -> list[tuple[int, int]]:
    """For levels of rising widths the latents that each adds: the first, and the one behind the last."""
    return list(pairwise([0, *widths]))


@dataclass(frozen=True, config=STRICT_KEYS)
class ContrastRow:
    """Codes of adjacent tokens of a document should tell each other from those of other tokens.

    T-SAE (Bhalla et al. 2025, arXiv 2511.05541), section 3: symmetric InfoNCE over all adjacent pairs of a batch.
    """

    share: Share
    """Share of the latents, the first ones, that it compares."""
    weight: Weight
    """Weight of the loss."""
    similarity: Literal["cosine", "dot"]
    """Of two tokens' codes, as in the paper's equation or as in its code."""
    scale: Positive = 1.0
    """What codes are multiplied by before the dot product."""


@dataclass(frozen=True, config=STRICT_KEYS)
class SeparationRow:
    """Decoder rows should not resemble each other: the mean of `relu(cosine)^2` over pairs of sampled rows."""

    weight: Weight
    """Weight of the loss."""
    sampled: Annotated[int, Field(ge=2)]
    """Rows drawn each step."""


@dataclass(frozen=True, config=STRICT_KEYS)
class PruningRow:
    """Latents that fire too rarely are silenced for good."""

    at: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Shares of the steps after which that happens, rising."""
    density: Positive
    """Latents that fired at a smaller share of the tokens since the last time."""

    def __post_init__(self) -> None:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("the shares of the steps rise")


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
    l0: Weight = 0.0
    """Weight of the number of active latents over d_sae, which reaches thresholds alone; over `l1_warmup` steps."""
    levels: tuple[LevelRow, ...] = ()
    """Matryoshka losses that replace the reconstruction loss; empty for none."""
    contrast: ContrastRow | None = None
    """A contrastive term over adjacent tokens; null for none."""
    separation: SeparationRow | None = None
    """A term on the decoder's rows; null for none."""
    pruning: PruningRow | None = None
    """When rare latents go; null for never."""

    def level_widths(self, d_sae: int) -> list[int]:
        """How many latents each level may use."""
        return [width_of(level.share, d_sae) for level in self.levels]

    def __post_init__(self) -> None:
        shares = [level.share for level in self.levels]
        if shares and (shares != sorted(set(shares)) or shares[-1] != 1):
            raise ValueError("the shares of levels rise to 1")
