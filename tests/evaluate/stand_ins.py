"""SAEs with known answers, and a store in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.sae.architecture import (
    AttentionRow,
    ConvolutionRow,
    GateRow,
    IntegratorRow,
    NormRow,
    PartsRow,
    PositionRow,
    PredictionRow,
    ResidualRow,
)
from stages.sae.codes import DenseCodes
from stages.sae.model import SAE, Encoding
from stages.sae.normalisation import Normalisation
from stages.sae.sparsifier import TopK

EVERYTHING = PartsRow(
    PositionRow(3, 0.5),
    AttentionRow(2, layer_norm=True, skip=True),
    ConvolutionRow(2, (1, 3)),
    ResidualRow(16),
    NormRow("layer"),
    GateRow(4, 2.0),
)
TEMPORAL = {
    "everything": EVERYTHING,
    "prediction": PartsRow(prediction=PredictionRow(2, 2)),
    "integrator": PartsRow(integrator=IntegratorRow(0.999)),
}
"""Parts by name, of SAEs that use the order of tokens."""


class Affine(nn.Module):
    """relu(x W_enc + b_enc) W_dec + b_dec, or without the ReLU; context-free, takes any leading shape."""

    def __init__(self, W_enc: Tensor, W_dec: Tensor, b_enc: Tensor, b_dec: Tensor, relu: bool = True) -> None:
        super().__init__()
        for name, value in {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}.items():
            setattr(self, name, nn.Parameter(value.clone(), requires_grad=False))
        self.relu = relu

    def encode(self, x: Tensor, segments: Tensor | None = None, start: int = 0) -> Tensor:
        pre = x @ self.W_enc + self.b_enc
        return pre.relu() if self.relu else pre

    def encoding(self, x: Tensor, segments: Tensor | None = None, start: int = 0) -> Encoding:
        return Encoding(DenseCodes(self.encode(x, segments, start)), x, None)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def random_sae(d: int, d_sae: int, seed: int, scale: float = 1.0) -> Affine:
    """ReLU SAE of random weights that reconstructs badly but not absurdly inputs of RMS `scale`."""
    g = torch.Generator().manual_seed(seed)
    decoder = nn.functional.normalize(torch.randn(d_sae, d, generator=g), dim=1)
    bias = -0.5 * scale * torch.rand(d_sae, generator=g)
    return Affine(decoder.T * 0.8, decoder, bias, 0.05 * scale * torch.randn(d, generator=g))


def dead_sae(d: int, d_sae: int) -> Affine:
    """All weights zero, as in the seeds: every code and output is 0."""
    return Affine(torch.zeros(d, d_sae), torch.zeros(d_sae, d), torch.zeros(d_sae), torch.zeros(d))


def identity_sae(d: int) -> Affine:
    """Returns its input."""
    return Affine(torch.eye(d), torch.eye(d), torch.zeros(d), torch.zeros(d), relu=False)


def constant_sae(d: int, d_sae: int, value: Tensor) -> Affine:
    """Returns `value` whatever the input."""
    return Affine(torch.zeros(d, d_sae), torch.zeros(d_sae, d), torch.zeros(d_sae), value)


@torch.no_grad()
def sae_with(parts: PartsRow, d: int, context: int, d_sae: int = 48, dead: bool = False) -> SAE:
    """A TopK SAE with parts, of which none is the identity that it starts as. A dead one has no active latent."""
    sae = SAE(d, d_sae, TopK(6), parts, context)
    sae.initialise(0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sae.named_parameters():
        if name not in ("W_enc", "W_dec", "b_dec"):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    sae.pruned.fill_(dead)
    return sae


def units_of(kept: Tensor) -> Normalisation:
    """The units in which raw activations have mean 0 and norm 1."""
    mean = kept.double().mean(0)
    return Normalisation(mean, float((kept - mean).square().sum(-1).mean().sqrt()))


@dataclass
class MemoryStore:
    """The reading side of an activation store, over arrays."""

    activations: Tensor
    tokens_: np.ndarray
    document_: np.ndarray
    layer: int = 1
    reads: list[Any] = field(default_factory=list)

    @property
    def layers(self) -> dict[int, int]:
        return {self.layer: self.activations.shape[-1]}

    def statistics(self, layer: int) -> SimpleNamespace:
        kept = self.activations[torch.as_tensor(self.document_ >= 0)].double().numpy()
        return SimpleNamespace(mean=kept.mean(0), scale=math.sqrt(kept.var(0).sum()))

    def read(self, layer: int, rows: np.ndarray, out: Tensor | None = None) -> Tensor:
        assert layer == self.layer
        self.reads.append(rows)
        return self.activations[torch.as_tensor(rows)]

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        return self.tokens_[rows]

    def document(self, rows: np.ndarray) -> np.ndarray:
        return self.document_[rows]


def random_rows(rows: int, context: int, vocab: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and documents of packed rows: BOS (2) first and between documents, the last row padded (0)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, vocab, (rows, context)).astype(np.int32)
    tokens[:, 0] = 2
    tokens[rng.random((rows, context)) < 0.1] = 2
    tokens[-1, context // 2 :] = 0
    document = np.where(np.isin(tokens, [0, 1, 2]), -1, np.cumsum(tokens == 2).reshape(rows, context))
    return tokens, document.astype(np.int32)
