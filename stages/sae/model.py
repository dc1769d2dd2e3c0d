"""The sparse autoencoder: inputs, encoder, sparsifier, decoder, and the parts around them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.sae.architecture import NO_PARTS, NormRow, PartsRow
from stages.sae.codes import Codes, DenseCodes, DerivedCodes, SignedCodes
from stages.sae.inputs import InputPart, input_parts
from stages.sae.layout import Layout, layout_of
from stages.sae.outputs import BatchNorm, Integrator, LayerNorm, PositionGate
from stages.sae.prediction import Prediction
from stages.sae.products import product
from stages.sae.sparsifier import FusedSparsifier, Sparsifier

Initialisation = Literal["tied", "kaiming"]
"""`tied`: decoder rows uniform on the unit sphere, the encoder their transpose. `kaiming`: the encoder as He et al.
2015 (arXiv 1502.01852) draw it, decoder rows its normalised columns."""


class Encoding(NamedTuple):
    """What the encoder's half of an SAE found."""

    codes: Codes
    """The codes."""
    inputs: Float[Tensor, "*tokens d_in"]
    """What the encoder read."""
    pre: Float[Tensor, "*tokens d_sae"] | None
    """What the sparsifier saw; None where it never stood in memory."""
    scale: Float[Tensor, "*tokens 1"] | None = None
    """What codes are times as large as the sparsifier left them; None for 1."""


class SAE(nn.Module):
    """`codes = sparsifier((x - b_dec) W_enc + b_enc)` and `reconstruction = codes W_dec + b_dec`, and optional parts.

    `x` is in the units that the weights are in: normalised ones in training, raw activations once saved
    (`stages.sae.files`). What looks at one token only accepts `[n, d_in]` too. In their order, `parts` change the
    inputs (position, attention, convolution, residual), take away what is predicted of them (prediction), normalise
    what the encoder makes of them (norm), and change the codes (gate, integrator).
    """

    pruned: Bool[Tensor, " d_sae"]
    """Latents that never fire again."""

    def __init__(
        self, d_in: int, d_sae: int, sparsifier: Sparsifier, parts: PartsRow = NO_PARTS, context: int = 0
    ) -> None:
        """Parameters are float32 and undefined until `initialise` or a load. `context` is the number of positions,
        for parts that know them."""
        super().__init__()
        self.d_in = d_in
        self.d_sae = d_sae
        self.context = context
        self.row = parts
        self.products = torch.float32
        """The dtype of dense matrix products; parameters and everything else stay float32."""
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))
        self.sparsifier = sparsifier
        self.inputs = nn.ModuleDict(dict(input_parts(parts, d_in, context)) if parts.changes_inputs else {})
        self.prediction = Prediction(parts.prediction, d_sae) if parts.prediction else None
        self.norm: BatchNorm | LayerNorm | None = None
        self.code_norm: LayerNorm | None = None
        match parts.norm:
            case NormRow(kind="batch") as row:
                self.norm = BatchNorm(row, d_sae)
            case NormRow(kind="layer"):
                self.norm = LayerNorm(d_sae)
            case NormRow(kind="layer_of_codes"):
                self.code_norm = LayerNorm(d_sae)
        self.gate = PositionGate(parts.gate, d_sae, context) if parts.gate else None
        self.integrator = Integrator(parts.integrator, d_sae) if parts.integrator else None
        self.register_buffer("pruned", torch.zeros(d_sae, dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int, kind: Initialisation = "tied") -> None:
        """Draw the weights. Biases are 0: `b_dec` because normalised inputs have mean 0. Parts start as the identity,
        but for those whose row says otherwise."""
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(self.d_sae, self.d_in, generator=generator)
        self.W_dec.copy_(directions / directions.norm(dim=-1, keepdim=True))
        self.W_enc.copy_(self.W_dec.T if kind == "tied" else directions.T * (2 / self.d_in) ** 0.5)
        self.b_enc.zero_()
        self.b_dec.zero_()
        for part in (*self.inputs.values(), self.prediction, self.gate):
            if part is not None:
                assert isinstance(part, InputPart | Prediction | PositionGate)
                part.initialise(generator)

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "batch seq d_in"], segments: Int[Tensor, "batch seq"]) -> None:
        """Let norms and thresholds take up the scale of the first batch."""
        layout = self._layout(x, segments, 0)
        kept = self._changed(x, layout)[segments >= 0] - self.b_dec
        pre = kept @ self.W_enc
        if self.norm is not None:
            self.norm.calibrate(pre)
            pre = self.norm(pre, None).pre
        self.sparsifier.calibrate((pre + self.b_enc).square().mean().sqrt().item())

    def follow(self) -> None:
        """Let what inference uses instead of a batch take in the last one: once a batch, or each part of one."""
        self.sparsifier.follow()
        if self.norm is not None:
            self.norm.follow()

    def encoding(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Encoding:
        """What `encode` returns, in the form that is cheapest to decode and differentiate, and where it came from."""
        layout = self._layout(x, segments, start)
        keep = None if segments is None else segments >= 0
        inputs = self._changed(x, layout)
        bias: Tensor = self.b_enc
        predicted = None
        if self.prediction is not None:
            assert layout is not None
            inputs = inputs - self.b_dec
            z = (self._product(inputs) + bias).relu()
            predicted = self.prediction(inputs, z, self.W_dec, layout, self.products)
            inputs = inputs - predicted.inputs
        else:
            inputs = inputs - self.b_dec.detach()
            bias = bias + self._decoder_bias()
        codes, pre, scale = self._sparsified(inputs, bias.masked_fill(self.pruned, -torch.inf), keep)
        if self.code_norm is not None:
            codes = SignedCodes(self.code_norm(codes.dense(), keep).pre.masked_fill(self.pruned, 0.0))
        if self.gate is not None:
            assert layout is not None
            kind = SignedCodes if self.code_norm is not None else DenseCodes
            codes = kind(codes.dense() * self.gate(layout))
        if self.integrator is not None:
            assert layout is not None
            codes = DerivedCodes(self.integrator(codes.dense(), layout), codes)
        if predicted is not None:
            codes = DerivedCodes(codes.dense() + predicted.codes, codes)
        return Encoding(codes, inputs, pre, scale)

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "*tokens d_sae"]:
        """Codes of `x: [batch, seq, d_in]`.

        `segments` are document ids, which parts that look across tokens never cross; None means one
        document with BOS at position 0. `start` is the absolute position of the first token in its stored row.
        """
        return self.encoding(x, segments, start).codes.dense()

    def decode(self, codes: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_in"]:
        """The reconstruction that codes stand for."""
        return codes @ self.W_dec + self.b_dec

    def decode_sparse(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """`decode` of codes in the form that `encoding` gives them."""
        return codes.decode(self.W_dec, self.products) + self.b_dec

    def forward(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "*tokens d_in"]:
        """`decode(encode(x))`."""
        return self.decode_sparse(self.encoding(x, segments, start).codes)

    def pre_activations(
        self, encoding: Encoding, latents: Int[Tensor, " n_latents"]
    ) -> Float[Tensor, "*tokens n_latents"]:
        """What the encoder gave the sparsifier for some latents, in the units of the codes."""
        if encoding.pre is not None:
            pre = encoding.pre.index_select(-1, latents)
            return pre if encoding.scale is None else pre * encoding.scale
        bias = (self.b_enc if self.prediction is not None else self.b_enc + self._decoder_bias()).index_select(
            0, latents
        )
        flat = encoding.inputs.flatten(0, -2)
        pre = product(flat, self.W_enc.index_select(1, latents), self.products).add_(bias)
        return pre.view(*encoding.inputs.shape[:-1], -1)

    def _layout(self, x: Tensor, segments: Int[Tensor, "batch seq"] | None, start: int) -> Layout | None:
        """Where tokens stand, if any part asks."""
        return layout_of(x, segments, start) if self.row.ordered else None

    def after_parts(
        self, x: Float[Tensor, "batch seq d_in"], segments: Int[Tensor, "batch seq"]
    ) -> dict[str, Float[Tensor, "batch seq d_in"]]:
        """By name, the inputs after each of the parts that change them, for instruments."""
        layout, found = self._layout(x, segments, 0), {}
        for name, part in self.inputs.items():
            x = found[name] = part(x, layout, self.products)
        return found

    def _changed(self, x: Float[Tensor, "*tokens d_in"], layout: Layout | None) -> Float[Tensor, "*tokens d_in"]:
        """Inputs after the parts that change them."""
        x = x.to(self.b_dec.dtype)
        for part in self.inputs.values():
            x = part(x, layout, self.products)
        return x

    def _sparsified(
        self, inputs: Float[Tensor, "*tokens d_in"], bias: Float[Tensor, " d_sae"], keep: Bool[Tensor, "*tokens"] | None
    ) -> tuple[Codes, Float[Tensor, "*tokens d_sae"] | None, Float[Tensor, "*tokens 1"] | None]:
        """Codes of the encoder's inputs, the pre-activations where they were needed as a whole, and their scale."""
        if self.norm is None and isinstance(self.sparsifier, FusedSparsifier):
            return self.sparsifier.encode(inputs, self.W_enc, bias, self.products, keep), None, None
        if self.norm is None:
            pre = self._product(inputs) + bias
            return DenseCodes(self.sparsifier.select(pre, keep)), pre, None
        normed = self.norm(self._product(inputs) + self._decoder_bias(), keep)
        pre = normed.pre + self.b_enc.masked_fill(self.pruned, -torch.inf)
        codes = self.sparsifier.select(pre, keep)
        return DenseCodes(codes if normed.scale is None else codes * normed.scale), pre, normed.scale

    def _product(self, inputs: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        return product(inputs, self.W_enc, self.products)

    def _decoder_bias(self) -> Float[Tensor, " d_sae"]:
        """A bias of value zero that carries the gradient of `- b_dec @ W_enc`.

        Through `x - b_dec` that gradient would cost a product as large as the encoder's own: one row a token, only
        to be summed over tokens.
        """
        return (self.b_dec.detach() - self.b_dec) @ self.W_enc.detach()
