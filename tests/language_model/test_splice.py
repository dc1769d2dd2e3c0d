from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.language_model.decoder import decoder_layers
from stages.language_model.model import LanguageModel
from stages.language_model.splice import Splice


def tokens_of(lm: LanguageModel) -> Tensor:
    tokens = torch.randint(3, 300, (2, 20), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = lm.bos_id
    return tokens


def hook_spliced(lm: LanguageModel, layer: int, tokens: Tensor, resid: Tensor) -> Tensor:
    """Logits of the unmodified model, all of which runs, with a hook that replaces a block's output."""
    handle = decoder_layers(lm.model)[layer].register_forward_hook(lambda *_: resid)
    with torch.no_grad():
        logits = lm.model(tokens).logits
    handle.remove()
    return logits


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_clean_residual_gives_the_models_own_logits(lm: LanguageModel, layer: int) -> None:
    tokens = tokens_of(lm)
    splice = Splice(lm, layer)
    logits = splice.logits(splice.tail(splice.resid(tokens), tokens))
    torch.testing.assert_close(logits, lm.model(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_replaced_residual_equals_a_hook(lm: LanguageModel, layer: int) -> None:
    tokens = tokens_of(lm)
    splice = Splice(lm, layer)
    resid = splice.resid(tokens) + torch.randn(2, 20, lm.d_model, generator=torch.Generator().manual_seed(3))
    logits = splice.logits(splice.tail(resid, tokens))
    torch.testing.assert_close(logits, hook_spliced(lm, layer, tokens, resid), rtol=1e-5, atol=1e-5)
    assert (logits - lm.model(tokens).logits).abs().max() > 1e-2


def test_logits_of_some_positions(lm: LanguageModel) -> None:
    tokens = tokens_of(lm)
    splice = Splice(lm, 1)
    hidden = splice.tail(splice.resid(tokens), tokens)
    kept = torch.arange(40).reshape(2, 20) % 3 == 0
    torch.testing.assert_close(splice.logits(hidden[kept]), splice.logits(hidden)[kept])


def test_tail_never_runs_the_blocks_before(lm: LanguageModel) -> None:
    tokens = tokens_of(lm)
    splice = Splice(lm, 1)
    resid = splice.resid(tokens)
    calls: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
        for i, block in enumerate(decoder_layers(lm.model))
    ]
    splice.tail(resid, tokens)
    for handle in handles:
        handle.remove()
    assert calls == [2, 3]
