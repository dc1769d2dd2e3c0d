"""Lets SAELens load SAEs with parts that do not fold: `import stages.sae.saelens`, then `SAE.load_from_disk` as ever.

SAELens passes activations without documents: each row is read as one document with BOS at position 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sae_lens
import torch
from jaxtyping import Float
from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class
from sae_lens.saes.sae import SAEConfig
from torch import Tensor

from stages.sae.files import COMPOSED
from stages.sae.loading import empty


@dataclass
class ComposedConfig(SAEConfig):
    """`cfg.json` of a composed SAE."""

    sparsifier: dict[str, Any] = field(default_factory=dict)
    """Kind, and k where it has one."""
    parts: dict[str, Any] = field(default_factory=dict)
    """`PartsRow`."""
    context: int = 0
    """Positions that its parts know."""

    @classmethod
    def architecture(cls) -> str:
        return COMPOSED


class ComposedForSAELens(sae_lens.SAE[ComposedConfig]):
    """A composed SAE behind SAELens's interface; its weights are those of `composed`."""

    def __init__(self, cfg: ComposedConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        self.composed = empty({**asdict(cfg), "architecture": COMPOSED}, Path("cfg.json")).to(self.device, self.dtype)
        self.composed.eval()

    @property
    def b_enc(self) -> Float[Tensor, " d_sae"]:
        """For what reads weights by name, as SAEBench does."""
        return self.composed.b_enc

    def encode(self, x: Float[Tensor, "batch seq d_in"]) -> Float[Tensor, "batch seq d_sae"]:
        codes: Tensor = self.hook_sae_acts_post(self.composed.encode(self.hook_sae_input(x)))
        return codes

    def decode(self, feature_acts: Float[Tensor, "batch seq d_sae"]) -> Float[Tensor, "batch seq d_in"]:
        output: Tensor = self.hook_sae_recons(self.composed.decode(feature_acts))
        return output

    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        state_dict["pruned"] = state_dict["pruned"].to(torch.bool)  # SAELens casts everything to the SAE's dtype
        for name in list(state_dict):
            state_dict[f"composed.{name}"] = state_dict[name]
        for name in set(state_dict) - set(self.state_dict()):
            del state_dict[name]

    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        for name in list(state_dict):
            tensor = state_dict.pop(name)
            if name.startswith("composed."):
                state_dict[name.removeprefix("composed.")] = tensor

    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Rows of the decoder have unit norm already."""


if COMPOSED not in SAE_CLASS_REGISTRY:
    register_sae_class(COMPOSED, ComposedForSAELens, ComposedConfig)
