from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.language_model.decoder import decoder_layers
from stages.language_model.model import LanguageModel
from stages.language_model.runner import LayerRunner
from stages.precision import can_compile
from store.problem import Problem

LAYERS = [0, 2, 3]


def tokens_of(lm: LanguageModel, padded: bool) -> tuple[Tensor, Tensor]:
    """Two rows of 20 tokens (longer than the tiny sliding window), and the mask of real ones."""
    tokens = torch.randint(3, 300, (2, 20), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = lm.bos_id
    mask = torch.ones_like(tokens)
    if padded:
        tokens[1, 11:], mask[1, 11:] = lm.pad_id, 0
    return tokens, mask


def hooked(lm: LanguageModel, tokens: Tensor, mask: Tensor) -> tuple[dict[int, Tensor], tuple[Tensor, ...]]:
    """What forward hooks on the unmodified model see, and its `hidden_states`."""
    seen: dict[int, Tensor] = {}
    blocks = decoder_layers(lm.model)

    def keep(layer: int):
        return lambda _module, _args, output: seen.__setitem__(layer, output)

    handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in LAYERS]
    with torch.no_grad():
        output = lm.model(tokens, attention_mask=mask, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return seen, output.hidden_states


def assert_close(found: Tensor, expected: Tensor, kept: Tensor) -> None:
    difference = (found - expected)[kept].norm(dim=-1) / expected[kept].norm(dim=-1)
    assert difference.max() <= 1e-5


@pytest.mark.parametrize("padded", [False, True])
def test_equals_a_hook_on_the_unmodified_model(lm: LanguageModel, padded: bool) -> None:
    tokens, mask = tokens_of(lm, padded)
    seen, hidden_states = hooked(lm, tokens, mask)
    found = LayerRunner(lm, LAYERS)(tokens)
    assert list(found) == LAYERS
    for layer in LAYERS:
        assert found[layer].shape == (2, 20, lm.d_model)
        assert_close(found[layer], seen[layer], mask.bool())
        if layer < lm.n_layers - 1:  # the last of hidden_states is behind the final norm
            assert_close(found[layer], hidden_states[layer + 1], mask.bool())


def test_what_lies_behind_the_layer_never_runs(lm: LanguageModel) -> None:
    calls: list[str] = []
    base = lm.model.base_model
    watched = {"block 2": decoder_layers(lm.model)[2], "block 1": decoder_layers(lm.model)[1]}
    watched |= {name: module for name, module in base.named_children() if "norm" in name or name == "ln_f"}
    watched |= {"head": lm.model.get_output_embeddings()}
    assert len(watched) == 4
    runner = LayerRunner(lm, [1])
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, module in watched.items()
    ]
    runner(tokens_of(lm, padded=False)[0])
    for handle in handles:
        handle.remove()
    assert calls == []  # block 1 runs as a copy that shares its parameters


def test_leaves_the_model_as_it_was(lm: LanguageModel) -> None:
    tokens, _ = tokens_of(lm, padded=False)
    before = lm.model(tokens).logits
    structure = [(id(module), len(module._forward_hooks)) for module in lm.model.modules()]
    runner = LayerRunner(lm, [1])
    runner(tokens)
    assert [(id(module), len(module._forward_hooks)) for module in lm.model.modules()] == structure
    assert torch.equal(lm.model(tokens).logits, before)
    shared = {parameter.data_ptr() for parameter in lm.model.parameters()}
    assert all(parameter.data_ptr() in shared for parameter in runner._model.parameters())


@pytest.mark.parametrize("layers", [[4], [-1], []])
def test_a_layer_that_the_model_lacks(lm: LanguageModel, layers: list[int]) -> None:
    with pytest.raises(Problem, match="layers 0 to 3") as caught:
        LayerRunner(lm, layers)
    assert caught.value.exit_status == 2


@pytest.mark.slow
@pytest.mark.parametrize("lm", ["gemma3"], indirect=True)  # half a minute to compile
@pytest.mark.skipif(not can_compile()[0], reason=can_compile()[1])
def test_compiled_equals_eager(lm: LanguageModel) -> None:
    tokens, mask = tokens_of(lm, padded=False)
    eager, compiled = LayerRunner(lm, [0, 2])(tokens), LayerRunner(lm, [0, 2], compile=True)(tokens)
    for layer in (0, 2):
        assert_close(compiled[layer], eager[layer], mask.bool())


def test_a_batch_that_memory_does_not_hold(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = LayerRunner(lm, LAYERS)
    monkeypatch.setattr(runner, "_forward", lambda tokens: {0: torch.empty(2**52)})
    with pytest.raises(Problem, match="does not fit into memory") as caught:
        runner(torch.ones(2, 20, dtype=torch.long))
    assert caught.value.found == "2 rows of 20 positions"

    def broken(_tokens: Tensor) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(runner, "_forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        runner(torch.ones(2, 20, dtype=torch.long))
