"""RMU, the baseline without an SAE: a few layers are trained to misrepresent one text and to keep the other."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.language_model.decoder import decoder_layers, decoder_path
from stages.language_model.model import LanguageModel
from stages.language_model.runner import LayerRunner
from stages.unlearn.text import Batch, Rows
from store.problem import Problem
from store.progress import SILENT, Progress


@dataclass(frozen=True)
class RMUConfig:
    """Representation misdirection for unlearning (Li et al. 2024, arXiv 2403.03218, section 4)."""

    layer: int
    """The layer of which the output is misdirected."""
    parameters: str = r"mlp\.(down_proj|c_proj|dense_4h_to_h)\.weight"
    """Which parameters of that layer and the two before it are trained: an expression for their names in a block."""
    steering: float = 1.0
    """Length of the random direction that the forgotten text is steered to, in mean norms of a token at the layer:
    the paper's numbers, 6.5 to 300, are absolute and grow with those norms."""
    alpha: float = 100.0
    """Weight of keeping the retained text."""
    lr: float = 5e-5
    """Of AdamW."""
    steps: int = 80
    """One batch of each text a step."""
    batch_rows: int = 4
    """Rows a batch."""
    seed: int = 42
    """Decides the direction."""


def rmu(lm: LanguageModel, forget: Rows, retain: Rows, config: RMUConfig, progress: Progress = SILENT) -> LanguageModel:
    """A copy of the model after training; loss = MSE(h(forget), c u) + alpha MSE(h(retain), h_0(retain)).

    The optimiser keeps its weights in float32: of those above 1/64 half the spacing of a bfloat16 exceeds the learning
    rate, and steps would be lost.

    Raises:
        Problem: no parameter has such a name, or the loss is not finite.
    """
    model = copy.deepcopy(lm.model)
    trained = _parameters(model, config)
    masters = [parameter.detach().to(torch.float32, copy=True) for parameter in trained]
    optimizer = torch.optim.AdamW(masters, lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    direction = torch.rand(lm.d_model, generator=generator).to(lm.device)
    target = None
    progress.start("RMU", config.steps, "steps")
    theirs, ours = (LayerRunner(each, [config.layer]) for each in (lm, replace(lm, model=model)))
    batches = (cycle(rows.batches(config.batch_rows)) for rows in (forget, retain))
    for _, to_forget, to_retain in zip(range(config.steps), *batches, strict=False):
        frozen = _kept(theirs(to_retain.tokens)[config.layer], to_retain)
        if target is None:
            target = config.steering * frozen.norm(dim=-1).mean() * direction / direction.norm()
        away = (_kept(ours.differentiable(to_forget.tokens)[config.layer], to_forget) - target).square().mean()
        same = (_kept(ours.differentiable(to_retain.tokens)[config.layer], to_retain) - frozen).square().mean()
        loss = away + config.alpha * same
        if not bool(loss.isfinite()):
            raise Problem("RMU diverged.", found=f"loss {loss.item()}", do="lower its learning rate or steering")
        for master, gradient in zip(masters, torch.autograd.grad(loss, trained), strict=True):
            master.grad = gradient.float()
        optimizer.step()
        for parameter, master in zip(trained, masters, strict=True):
            parameter.data.copy_(master)
        progress.advance(1)
    model.requires_grad_(False)
    return replace(lm, model=model)


def _parameters(model: PreTrainedModel, config: RMUConfig) -> list[nn.Parameter]:
    """Those to train; the others stay frozen."""
    base: Any = model.base_model
    blocks = decoder_layers(base)
    first = max(0, config.layer - 2)
    named = [(n, p) for block in blocks[first : config.layer + 1] for n, p in block.named_parameters()]
    found = [parameter for name, parameter in named if re.fullmatch(config.parameters, name)]
    if not found:
        raise Problem(
            "No parameter of these layers has such a name.",
            where=f"layers {first} to {config.layer}, {decoder_path(base)}",
            expected=f"names like {', '.join(dict(named))}",
            found=config.parameters,
        )
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def _kept(resid: Float[Tensor, "batch seq d"], batch: Batch) -> Float[Tensor, "kept d"]:
    """The residual stream at tokens of documents."""
    return resid[batch.segments.to(resid.device) >= 0].float()
