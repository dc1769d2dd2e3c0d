"""Adam on float32 parameters, with decoder rows kept on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.sae.model import SAE
from stages.sae.variant import OptimizerRow
from stages.train.randomness import generator_at

NOISE_DECAY = 0.55
"""Exponent with which the variance of gradient noise falls with the steps (Neelakantan et al. 2015, eq. 1)."""


class Optimiser:
    """Steps an SAE.

    The decoder's gradient loses its part parallel to each row and rows are renormalised after the
    step: otherwise the L1 term could be lowered by longer rows and smaller codes.
    """

    def __init__(self, row: OptimizerRow, sae: SAE, seed: int) -> None:
        self.sae = sae
        self.seed = seed
        self.clip = row.clip
        self.noise = row.noise
        self.parameters = dict(sae.named_parameters())
        self.adam = torch.optim.Adam(self.parameters.values(), lr=row.lr, betas=(0.9, 0.999), fused=True)

    def step(self, lr: float) -> None:
        """Apply the gradients that `backward` left, clipped if the row says so, and drop them."""
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.sae.W_dec.div_(self.sae.W_dec.norm(dim=-1, keepdim=True))

    @torch.no_grad()
    def prepare_gradients(self, step: int) -> Tensor:
        """Project the decoder's gradient, clip, add noise; returns the norm of all gradients before clipping."""
        gradient, rows = self.sae.W_dec.grad, self.sae.W_dec
        assert gradient is not None, "prepare_gradients comes after backward"
        parallel = torch.linalg.vecdot(gradient, rows).unsqueeze(-1)
        gradient.addcmul_(parallel, rows, value=-1)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, norm)
        if self.noise is not None and step < self.noise.steps:
            self._add_noise(gradients, self.noise.scale / (1 + step) ** (NOISE_DECAY / 2), step)
        return norm

    def _add_noise(self, gradients: list[Tensor], scale: float, step: int) -> None:
        """Normal noise whose standard deviation is `scale` root mean squares of each parameter's gradient."""
        generator = generator_at(self.seed, step, "gradient noise")
        for gradient in gradients:
            noise = torch.randn(gradient.shape, generator=generator).to(gradient.device)
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
