"""Find a transformer's decoder blocks by structure, and rebuild the model around other blocks.

Nothing here knows a model's name. The rebuilt models are shallow copies: they share every parameter with
the original and leave it untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.language_model.quiet import quiet
from store.problem import Problem

M = TypeVar("M", bound=nn.Module)


def decoder_path(model: PreTrainedModel) -> str:
    """Dotted name of the list of decoder blocks: the outermost `ModuleList` of `num_hidden_layers` modules."""
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not lists:
        raise Problem(
            "This model has no list of decoder blocks that could be stopped at a layer.",
            where=type(model).__name__,
            expected=f"a ModuleList of {n_layers} blocks",
        )
    return min(lists, key=lambda name: name.count("."))


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of `model`, in order."""
    layers = model.get_submodule(decoder_path(model))
    assert isinstance(layers, nn.ModuleList)
    return layers


def shallow_copy(module: M) -> M:
    """A module with the same parameters and children but its own tables of children and hooks."""
    copy = module.__class__.__new__(module.__class__)
    copy.__dict__ = {
        name: value.copy() if name.startswith("_") and isinstance(value, dict) else value
        for name, value in module.__dict__.items()
    }
    return copy


def with_modules(model: M, replacements: Mapping[str, nn.Module]) -> M:
    """A shallow copy of `model` in which the submodules at the given dotted names are replaced."""
    copies: dict[str, nn.Module] = {"": shallow_copy(model)}
    for name, module in replacements.items():
        parents = name.split(".")[:-1]
        for depth in range(1, len(parents) + 1):
            path = ".".join(parents[:depth])
            if path not in copies:
                owner = copies[".".join(parents[: depth - 1])]
                copies[path] = shallow_copy(owner.get_submodule(parents[depth - 1]))
                setattr(owner, parents[depth - 1], copies[path])
        setattr(copies[".".join(parents)], name.split(".")[-1], module)
    return copies[""]  # type: ignore[return-value]


def hidden_states(output: Any) -> Tensor:
    """The residual stream in what a decoder block returns: the tensor itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def modules_after(model: PreTrainedModel, path: str) -> list[str]:
    """Dotted names of the modules beside the block list at `path` that run after its last block.

    These are the final norm and whatever follows it. Found by watching one forward pass over two tokens.
    """
    parent_path = path.rpartition(".")[0]
    parent, blocks = model.get_submodule(parent_path), model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    calls: list[str] = []

    def recorder(name: str) -> Any:
        return lambda *_: calls.append(name)

    watched = [(name, child) for name, child in parent.named_children() if child is not blocks]
    handles = [child.register_forward_pre_hook(recorder(name)) for name, child in watched]
    handles.append(blocks[-1].register_forward_pre_hook(recorder("")))
    try:
        with torch.no_grad(), quiet():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [f"{parent_path}.{name}".lstrip(".") for name in calls[calls.index("") + 1 :]]
