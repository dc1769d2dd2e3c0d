"""Run a language model up to a layer and no further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stages.language_model.decoder import (
    decoder_layers,
    decoder_path,
    hidden_states,
    modules_after,
    shallow_copy,
    with_modules,
)
from stages.language_model.model import LanguageModel
from stages.language_model.quiet import quiet
from store.problem import Problem


class LayerRunner:
    """The residual stream after chosen layers.

    The model is cut after the last of them: later blocks, the final norm and the head never run, and no
    key-value cache is kept. `lm.model` itself is not modified; the cut model shares its parameters.

    With `compile`, the first call with a batch of some shape takes up to a minute: give every batch one
    shape.
    """

    def __init__(self, lm: LanguageModel, layers: Sequence[int], compile: bool = False) -> None:
        check_layers(layers, lm.n_layers)
        self.layers = tuple(sorted(layers))
        self._device = lm.device
        self._model = self._cut(lm)
        self._kept: dict[int, Tensor] = {}
        self._forward: Callable[[Tensor], dict[int, Tensor]] = self._run
        if compile:
            self._forward = torch.compile(self._run, dynamic=False)

    def _cut(self, lm: LanguageModel) -> nn.Module:
        base: Any = lm.model.base_model
        path = decoder_path(base)
        blocks = list(decoder_layers(base))[: self.layers[-1] + 1]
        for layer in self.layers:
            blocks[layer] = shallow_copy(blocks[layer])
        cut = with_modules(base, {path: nn.ModuleList(blocks)})
        cut = with_modules(cut, {name: nn.Identity() for name in modules_after(cut, path)})
        for layer in self.layers:
            blocks[layer].register_forward_hook(self._keeper(layer))
        return cut

    def _keeper(self, layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            self._kept[layer] = hidden_states(output)

        return keep

    def _run(self, tokens: Tensor) -> dict[int, Tensor]:
        self._kept = {}
        self._model(input_ids=tokens, use_cache=False)
        return self._kept

    def differentiable(self, tokens: Int[Tensor, "batch seq"]) -> dict[int, Float[Tensor, "batch seq d"]]:
        """As a call, but with gradients, which reach the parameters of the model."""
        with quiet():  # some architectures warn of padding without a mask
            return self._forward(tokens.to(self._device, torch.long))

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "batch seq"]) -> dict[int, Float[Tensor, "batch seq d"]]:
        """The residual stream of `tokens` after each layer, on the model's device.

        Rows may be padded on the right: attention is causal, so padding changes no position before it.

        Raises:
            Problem: memory does not hold so large a batch.
        """
        try:
            return self.differentiable(tokens)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise Problem(
                "A forward pass of the language model does not fit into memory.",
                found=f"{tokens.shape[0]:,} rows of {tokens.shape[1]:,} positions",
                do="set a smaller batch_rows or a shorter context",
            ) from error


def check_layers(layers: Sequence[int], n_layers: int) -> None:
    """Problem where a layer is not one of 0 .. n_layers - 1, or none is named."""
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not layers:
        raise Problem(
            "The model does not have this layer." if wrong else "No layer is named.",
            expected=f"layers 0 to {n_layers - 1}",
            found=", ".join(map(str, wrong)) or None,
            usage=True,
        )
