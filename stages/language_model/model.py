"""A causal language model with its tokenizer, in evaluation mode, and what identifies it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.language_model import gguf
from stages.language_model.config import ModelConfig
from stages.language_model.quiet import quiet
from stages.language_model.source import Source, configuration, gguf_parts, parse_source, resolve
from stages.precision import native_dtype
from store.files import file_sha256
from store.problem import Problem
from store.progress import SILENT, Progress


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model: no gradients, no dropout."""

    name: str
    """The configured name."""
    model: PreTrainedModel
    """The Hugging Face causal language model."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    bos_id: int
    """Token at position 0 of every row and between packed documents."""
    pad_id: int
    """Token that fills rows up."""
    eos_id: int
    """End-of-sequence token; never inserted."""
    attention: str
    """The attention implementation in use: `sdpa`, or `eager` where attention logits are soft-capped."""
    identity: dict[str, str]
    """sha256 of each file that decides what the model computes: weights, configuration, tokenizer."""

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return self.model.config.get_text_config().num_hidden_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.config.get_text_config().hidden_size

    @property
    def dtype(self) -> torch.dtype:
        """Number format of weights and activations."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device


def dtype_of(config: ModelConfig) -> torch.dtype:
    """The number format of a model's weights and products on this machine."""
    return native_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def load(config: ModelConfig, progress: Progress = SILENT) -> LanguageModel:
    """Fetch or convert the weights if need be, and load them, onto the GPU where there is one."""
    folder = resolve(config, progress)
    dtype = dtype_of(config)
    try:
        with quiet():
            settings = transformers.AutoConfig.from_pretrained(folder)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, attn_implementation=attention_for(settings)
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Problem(
            "The model cannot be loaded.",
            where=folder,
            expected="a causal language model as config.json, *.safetensors and a fast tokenizer",
            found=f"{type(error).__name__}: {error}",
        ) from error
    model.requires_grad_(False).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    eos = tokenizer.eos_token_id
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise Problem("The tokenizer has neither a BOS nor an EOS token.", where=folder)
    return LanguageModel(
        name=config.name,
        model=model,
        tokenizer=tokenizer,
        bos_id=bos,
        pad_id=bos if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        eos_id=bos if eos is None else eos,
        attention=model.config._attn_implementation,
        identity=identity(folder),
    )


def attention_for(settings: transformers.PreTrainedConfig) -> str | None:
    """`eager` for models that soft-cap attention logits (Gemma 2), which fused attention cannot; else None.

    None leaves the choice to transformers: `sdpa` wherever the architecture supports it.
    """
    capped = getattr(settings.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else None


def identity(folder: Path) -> dict[str, str]:
    """sha256 of the files that decide a model's activations, by name."""
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    return {file.name: file_sha256(file) for file in sorted(files) if file.is_file()}


def n_layers(config: ModelConfig) -> int:
    """Number of layers, read from `config.json` or the header of a GGUF: no weights are loaded."""
    source = parse_source(config.source, config.sha256)
    if source.kind in ("gguf", "package"):
        return gguf.n_layers(gguf_parts(source))
    return _settings(source).get_text_config().num_hidden_layers


def _settings(source: Source) -> Any:
    folder = configuration(source)
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise Problem("The model's config.json cannot be read.", where=folder, found=str(error)) from error


def positions(folder: Path) -> int | None:
    """The longest row that a model reads, from its `config.json`; None where that does not say."""
    with quiet():
        config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
    longest: int | None = getattr(config, "max_position_embeddings", None)
    return longest


def width(folder: Path) -> int:
    """Dimensions of the residual stream, read from a model folder's `config.json`."""
    with quiet():
        return transformers.AutoConfig.from_pretrained(folder).get_text_config().hidden_size
