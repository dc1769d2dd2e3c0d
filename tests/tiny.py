"""Tiny random language models of every architecture under test, saved as Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("gemma3", "gemma2", "llama", "gpt2", "gpt_neox")

SENTENCES = (
    "The mitochondria is the powerhouse of the cell.",
    "It produces energy through oxidative phosphorylation.",
    "A sparse autoencoder reads the residual stream of a language model.",
    "Paris is the capital of France, and the Seine runs through it.",
    "In 1905 Albert Einstein published four papers on physics.",
)


def tiny_tokenizer(vocab: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `SENTENCES`, at least 259 entries, with <pad> = 0, <eos> = 1, <bos> = 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def tiny_config(kind: str, layers: int, d: int, vocab: int) -> transformers.PreTrainedConfig:
    """A configuration of the architecture `kind`; sliding windows are short so that 16 tokens exceed them."""
    heads: dict[str, Any] = dict(hidden_size=d, num_hidden_layers=layers, num_attention_heads=4)
    grouped: dict[str, Any] = heads | dict(num_key_value_heads=2, intermediate_size=2 * d)
    special: dict[str, Any] = dict(vocab_size=vocab, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    gemma: dict[str, Any] = grouped | dict(head_dim=d // 4, sliding_window=8, query_pre_attn_scalar=d // 4)
    configs = {
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **gemma,
            **special,
            layer_types=["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
        ),
        "gemma2": lambda: transformers.Gemma2Config(
            **gemma, **special, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
        ),
        "llama": lambda: transformers.LlamaConfig(**grouped, **special),
        "gpt2": lambda: transformers.GPT2Config(n_embd=d, n_layer=layers, n_head=4, **special),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**heads, intermediate_size=2 * d, **special),
    }
    config = configs[kind]()
    config.initializer_range = 0.2  # large enough that every block changes the residual stream
    return config


def tiny_model_folder(
    tmp_path: Path, kind: str = "gemma2", layers: int = 3, d: int = 32, vocab: int = 320, seed: int = 0
) -> Path:
    """Save a random model of architecture `kind` and its tokenizer below `tmp_path`; return the folder."""
    tokenizer = tiny_tokenizer(vocab)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(tiny_config(kind, layers, d, len(tokenizer)))
    folder = tmp_path / f"tiny-{kind}-{layers}x{d}-seed{seed}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
