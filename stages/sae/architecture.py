"""The schema of an SAE's parts: what rows of `variants.yaml` and saved SAEs say about their architecture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT_KEYS = ConfigDict(extra="forbid", allow_inf_nan=False)

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Steps = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=STRICT_KEYS)
class ThresholdRow:
    """Learned thresholds (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

    initial: Positive
    """Where each latent's threshold starts."""
    bandwidth: Positive
    """Width of the rectangle in which the straight-through estimator passes gradients to the threshold."""
    unit: Literal["pre_activation_rms", "normalised"] = "pre_activation_rms"
    """What both are multiples of: the root mean square of the pre-activations of the first batch, or 1 in normalised
    units, in which pre-activations are about `1 / sqrt(d_in)`."""


@dataclass(frozen=True, config=STRICT_KEYS)
class SparsifierRow:
    """How pre-activations become codes."""

    kind: Literal["relu", "topk", "batchtopk", "jumprelu"]
    """`topk` keeps the k largest of a token, `batchtopk` k a token on average over a batch, `jumprelu` those above a
    learned threshold. k is the profile's."""
    threshold: ThresholdRow | None = None
    """Of `jumprelu`, and of no other."""

    def __post_init__(self) -> None:
        if (self.kind == "jumprelu") != (self.threshold is not None):
            raise ValueError("jumprelu needs a threshold, other kinds have none")


@dataclass(frozen=True, config=STRICT_KEYS)
class PositionRow:
    """A learned embedding of the position, concatenated to the inputs and mapped back to their width."""

    dim: Count
    """Its width."""
    std: Positive
    """Its standard deviation at first."""


@dataclass(frozen=True, config=STRICT_KEYS)
class AttentionRow:
    """Causal attention over the inputs of a document, before the encoder."""

    heads: Count
    """Heads; d_in is a multiple of them."""
    layer_norm: bool
    """Whether queries, keys and values read normalised inputs."""
    skip: bool
    """Whether its output, zero at first, is added to the inputs; otherwise it replaces them."""
    initial: Literal["self", "random"] = "self"
    """Where attention without `skip` starts: at tokens that attend to those most like them, themselves above all, and
    pass them on; or at random matrices, which mix a document's tokens."""


@dataclass(frozen=True, config=STRICT_KEYS)
class ConvolutionRow:
    """Causal depth-wise convolutions, parallel branches added to the inputs; zero at first."""

    kernel: Annotated[int, Field(ge=2)]
    """Taps of a branch."""
    dilations: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Distance of its taps, a branch each."""


@dataclass(frozen=True, config=STRICT_KEYS)
class ResidualRow:
    """A two-layer network added to the inputs, a token at a time; zero at first."""

    hidden: Count
    """Width of its hidden layer."""


@dataclass(frozen=True, config=STRICT_KEYS)
class GateRow:
    """A factor between 0 and 1 on each code that depends on the position."""

    dim: Count
    """Width of the position embedding that it is computed from."""
    bias: float
    """What the sigmoid gets at first: 2 leaves gates at 0.88."""


@dataclass(frozen=True, config=STRICT_KEYS)
class NormRow:
    """Normalisation of pre-activations."""

    kind: Literal["batch", "layer", "layer_of_codes"]
    """`batch`: a latent over the tokens of a batch, running statistics once trained. `layer`: a token over its latents,
    whose codes get the token's scale back (without it codes would lose the size of what they stand for).
    `layer_of_codes`: a token over its codes (004 to the letter), which makes zeros non-zero: every latent is active."""
    gain: Literal["measured", "one"] = "measured"
    """Of `batch`, at first: the spread of the first batch's pre-activations, so that training starts from the plain
    SAE; or 1, which makes pre-activations about `sqrt(d_in)` times as large."""


@dataclass(frozen=True, config=STRICT_KEYS)
class IntegratorRow:
    """Codes as leaky sums of what the sparsifier gives: `h_t = decay h_(t-1) + (1 - decay) a_t` within a document.

    Luo, Espinosa Zarlenga and Jamnik, Persistent SAE (arXiv 2607.17117).
    """

    largest: Annotated[float, Field(gt=0, lt=1)]
    """Bound of a latent's learned decay, which is this times a sigmoid."""


@dataclass(frozen=True, config=STRICT_KEYS)
class PredictionRow:
    """Codes in two parts: what attention over earlier codes predicts, and what is novel (Lubana et al. 2025,
    arXiv 2511.01836)."""

    heads: Count
    """Heads of the attention."""
    bottleneck: Count
    """How many times narrower than d_sae it works inside."""


@dataclass(frozen=True, config=STRICT_KEYS)
class PartsRow:
    """What stands around encoder and decoder; null parts are not there."""

    position: PositionRow | None = None
    """First of the inputs' parts."""
    attention: AttentionRow | None = None
    """After it."""
    convolution: ConvolutionRow | None = None
    """After these."""
    residual: ResidualRow | None = None
    """Last of the inputs' parts."""
    norm: NormRow | None = None
    """Between encoder and sparsifier."""
    gate: GateRow | None = None
    """On the codes."""
    integrator: IntegratorRow | None = None
    """On the codes, last."""
    prediction: PredictionRow | None = None
    """Before the sparsifier, which then sees what was not predicted."""

    @property
    def folds(self) -> bool:
        """Whether the trained SAE is one of standard architecture: encoder, sparsifier and decoder alone."""
        return self in (PartsRow(), PartsRow(norm=NormRow("batch")), PartsRow(norm=NormRow("batch", "one")))

    @property
    def changes_inputs(self) -> bool:
        """Whether the encoder reads other inputs than the SAE was given."""
        return any((self.position, self.attention, self.convolution, self.residual))

    @property
    def ordered(self) -> bool:
        """Whether a token's codes depend on its position or on other tokens."""
        return any((self.position, self.attention, self.convolution, self.gate, self.integrator, self.prediction))


NO_PARTS = PartsRow()
