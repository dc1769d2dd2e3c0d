"""SAEs with parts that do not fold, for raw activations."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.sae.architecture import PartsRow
from stages.sae.codes import Codes, DenseCodes, DerivedCodes, SignedCodes
from stages.sae.model import SAE, Encoding
from stages.sae.normalisation import Normalisation
from stages.sae.sparsifier import Sparsifier


class ComposedSAE(SAE):
    """An SAE in normalised units that takes raw activations, and gives codes and reconstructions in their units.

    Attention, convolution and the other parts do not commute with centring, so the mean and the scale travel with the
    weights. Codes are `scale` times those of the normalised SAE, as those of an SAE that folds are.
    """

    mean: Float[Tensor, " d_in"]
    scale: Float[Tensor, ""]

    def __init__(self, d_in: int, d_sae: int, sparsifier: Sparsifier, parts: PartsRow, context: int) -> None:
        super().__init__(d_in, d_sae, sparsifier, parts, context)
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("pruned", torch.zeros(d_sae, dtype=torch.bool))

    @classmethod
    @torch.no_grad()
    def of(cls, sae: SAE, normalisation: Normalisation) -> ComposedSAE:
        """A trained SAE with its normalisation."""
        sparsifier = sae.sparsifier.for_inference(sae.d_sae, 1.0)
        composed = cls(sae.d_in, sae.d_sae, sparsifier, sae.row, sae.context)
        units = {"mean": normalisation.mean.float(), "scale": torch.tensor(normalisation.scale), "pruned": sae.pruned}
        learned = {f"sparsifier.{name}": tensor for name, tensor in sparsifier.state_dict().items()}
        trained = {name: tensor for name, tensor in sae.state_dict().items() if not name.startswith("sparsifier.")}
        composed.load_state_dict({**trained, **learned, **units})
        return composed

    def encoding(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Encoding:
        found = super().encoding((x.to(self.mean.dtype) - self.mean) / self.scale, segments, start)
        raw, events = self._in_raw_units(found.codes), found.codes.events
        if events is not found.codes:
            raw = DerivedCodes(raw.tensor, self._in_raw_units(events))
        return found._replace(codes=raw)

    def _in_raw_units(self, codes: Codes) -> DenseCodes:
        kind = SignedCodes if isinstance(codes, SignedCodes) else DenseCodes
        return kind(codes.dense() * self.scale)

    def decode(self, codes: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_in"]:
        return codes @ self.W_dec + (self.mean + self.scale * self.b_dec)

    def forward(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "*tokens d_in"]:
        return self.decode(self.encode(x, segments, start))
