"""Replace the residual stream at one layer and run the rest of the model on it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from stages.language_model.decoder import decoder_layers, decoder_path, with_modules
from stages.language_model.model import LanguageModel
from stages.language_model.quiet import quiet
from stages.language_model.runner import LayerRunner


class Given(nn.Module):
    """Stands for modules whose output is known already: returns it, whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Any = None

    def forward(self, *_args: Any, **_options: Any) -> Any:
        return self.output


class Splice:
    """One layer's residual stream out of a model and back in.

    `logits(tail(resid(tokens), tokens))` equals the model's own logits. The blocks up to the layer run in
    `resid` alone, so several replacements of one batch share them.
    """

    def __init__(self, lm: LanguageModel, layer: int) -> None:
        self.layer = layer
        self._runner = LayerRunner(lm, [layer])
        self._residual, self._hidden = Given(), Given()
        base: Any = lm.model.base_model
        later = list(decoder_layers(base))[layer + 1 :]
        # The positions in the list stay, because models look up a layer's kind of attention by position.
        blocks = nn.ModuleList([self._residual] * (layer + 1) + later)
        self._tail = with_modules(base, {decoder_path(base): blocks})
        self._head = with_modules(lm.model, {lm.model.base_model_prefix: self._hidden})
        self.vocabulary: int = lm.model.get_output_embeddings().weight.shape[0]
        """Logits of a position."""

    def resid(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d"]:
        """The residual stream after the layer."""
        return self._runner(tokens)[self.layer]

    @torch.no_grad()
    def tail(
        self, resid: Float[Tensor, "batch seq d"], tokens: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq d"]:
        """Final hidden states, after the final norm, if the residual stream after the layer were `resid`."""
        self._residual.output = resid
        with quiet():
            return self._tail(input_ids=tokens.to(resid.device, torch.long), use_cache=False).last_hidden_state

    @torch.no_grad()
    def logits(self, hidden: Float[Tensor, "*positions d"]) -> Float[Tensor, "*positions vocab"]:
        """Logits of final hidden states, made by the model's own code (head and soft-capping included)."""
        self._hidden.output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden.reshape(1, -1, hidden.shape[-1])
        )
        logits = self._head(input_ids=None, use_cache=False).logits
        return logits.reshape(*hidden.shape[:-1], -1)
