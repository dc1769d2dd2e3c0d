"""The tokenizer of a store's text, found without the weights of its model."""

from __future__ import annotations

import transformers
from transformers import PreTrainedTokenizerBase

from stages.language_model.config import ModelConfig
from stages.language_model.quiet import quiet
from stages.language_model.source import tokenizer_folder
from store.files import file_sha256
from store.problem import Problem

FILE = "tokenizer.json"


def tokenizer_for(recorded: str, model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of `model`, if the sha256 of its `tokenizer.json` is the recorded one.

    Raises Problem where it is another one or not at hand; weights are never fetched or loaded.
    """
    folder = tokenizer_folder(model)
    path = folder / FILE
    found = file_sha256(path) if path.is_file() else "no such file"
    if found != recorded:
        raise Problem(
            f"The tokenizer of {model.name} is not the one that made this text.",
            where=path,
            expected=f"sha256 {recorded}",
            found=found,
        )
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise Problem("The tokenizer cannot be loaded.", where=folder, found=error) from None


def spelled(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """The text of each token alone; empty for an id that the tokenizer does not have."""
    return [str(tokenizer.decode([id])) if 0 <= id < len(tokenizer) else "" for id in ids]
