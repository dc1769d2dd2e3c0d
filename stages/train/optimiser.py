"""Adam on float32 parameters, with decoder rows kept on the unit sphere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stages.sae.model import SAE
from stages.sae.training_row import OptimizerRow
from stages.train.randomness import generator_at

NOISE_DECAY = 0.55
"""Exponent with which the variance of gradient noise falls with the steps (Neelakantan et al. 2015, eq. 1)."""


class Prepared(NamedTuple):
    """Gradients before a step."""

    norm: Float[Tensor, ""]
    """Norm of all of them before clipping."""
    clipped: Float[Tensor, ""]
    """Share of their entries that clipping changed."""


class Optimiser:
    """Steps an SAE.

    The decoder's gradient loses its part parallel to each row and rows are renormalised after the
    step: otherwise the L1 term could be lowered by longer rows and smaller codes.
    """

    def __init__(self, row: OptimizerRow, sae: SAE, seed: int) -> None:
        self.sae = sae
        self.seed = seed
        self.row = row
        self.parameters = dict(sae.named_parameters())
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[row.name]
        decays = {True: [], False: []}  # type: dict[bool, list[Tensor]]
        for name, parameter in self.parameters.items():
            decays[parameter.ndim > 1 and name != "W_dec"].append(parameter)
        groups = [
            {"params": decays[True], "weight_decay": row.weight_decay},
            {"params": decays[False], "weight_decay": 0.0},
        ]
        self.adam = kind(groups, lr=row.lr, betas=(0.9, 0.999), fused=True)

    def step(self, lr: float) -> None:
        """Apply the gradients that `backward` left and drop them."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.sae.W_dec.div_(self.sae.W_dec.norm(dim=-1, keepdim=True))

    @torch.no_grad()
    def prepare_gradients(self, step: int) -> Prepared:
        """Project the decoder's gradient, clip by norm and by value, add noise, as the row says."""
        gradient, rows = self.sae.W_dec.grad, self.sae.W_dec
        assert gradient is not None, "prepare_gradients comes after backward"
        parallel = torch.linalg.vecdot(gradient, rows).unsqueeze(-1)
        gradient.addcmul_(parallel, rows, value=-1)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        clipped = torch.zeros_like(norm)
        if self.row.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.row.clip, norm)
            clipped = (norm > self.row.clip).to(norm.dtype)
        if self.row.clip_value is not None:
            limit = self.row.clip_value
            beyond = torch.stack([(each.abs() > limit).sum() for each in gradients]).sum()
            clipped = torch.maximum(clipped, beyond / sum(each.numel() for each in gradients))
            torch.nn.utils.clip_grad_value_(self.parameters.values(), limit)
        noise = self.row.noise
        if noise is not None and step < noise.steps:
            self._add_noise(gradients, noise.scale / (1 + step) ** (NOISE_DECAY / 2), step)
        return Prepared(norm, clipped)

    def _add_noise(self, gradients: list[Tensor], scale: float, step: int) -> None:
        """Normal noise whose standard deviation is `scale` root mean squares of each parameter's gradient.

        Drawn where the gradients are: as many numbers as there are parameters, every step.
        """
        device = self.sae.W_dec.device
        generator = generator_at(self.seed, step, "gradient noise", device)
        for gradient in gradients:
            noise = torch.randn(gradient.shape, generator=generator, device=device)
            gradient.addcmul_(noise, gradient.square().mean().sqrt(), value=scale)

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and counts by parameter, for a checkpoint."""
        return {
            f"{name}.{key}": tensor
            for name, parameter in self.parameters.items()
            for key, tensor in self.adam.state[parameter].items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, parameter in self.parameters.items():
            prefix = f"{name}."
            self.adam.state[parameter] = {
                key.removeprefix(prefix): tensor.to(parameter.device, copy=True)
                for key, tensor in state.items()
                if key.startswith(prefix)
            }
