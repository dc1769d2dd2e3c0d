from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from stages.language_model.decoder import (
    decoder_layers,
    decoder_path,
    hidden_states,
    modules_after,
    with_modules,
)
from stages.language_model.model import LanguageModel
from store.problem import Problem


def test_finds_blocks_and_final_norm_by_structure(lm: LanguageModel) -> None:
    assert len(decoder_layers(lm.model)) == lm.n_layers == 4
    base = lm.model.base_model
    (after,) = modules_after(base, decoder_path(base))
    assert after in ("norm", "ln_f", "final_layer_norm")
    assert not any(module._forward_pre_hooks for module in lm.model.modules())


def test_takes_the_outermost_of_two_lists_of_that_length() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=8)
    )
    model.model.layers[0].experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    assert decoder_path(model) == "model.layers"


def test_a_model_without_a_list_of_blocks() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=8)
    )
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(Problem, match="no list of decoder blocks"):
        decoder_path(model)


def test_with_modules_replaces_in_a_copy() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    copy = with_modules(model, {"0.1": nn.Identity(), "1": nn.Identity()})
    assert isinstance(copy[0][1], nn.Identity) and isinstance(copy[1], nn.Identity)
    assert isinstance(model[0][1], nn.ReLU) and isinstance(model[1], nn.Linear)
    assert copy[0][0] is model[0][0]


def test_reads_blocks_that_return_tuples() -> None:
    x = torch.ones(1)
    assert hidden_states(x) is x and hidden_states((x, None)) is x
