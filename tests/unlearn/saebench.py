"""SAEBench's own unlearning evaluation on local texts and questions, driven as its command line drives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stages.sae.model import SAE
from stages.unlearn.questions import WMDP, QuestionSet

MODEL = "gemma-2-2b-it"
"""SAEBench knows the prompt format and the answer tokens of few names."""
SAE_NAME = "the_sae"


def hooked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A GPT-2 in TransformerLens, which SAEBench's type checks ask for."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    theirs = model.config
    config = HookedTransformerConfig(
        n_layers=theirs.n_layer,
        d_model=theirs.n_embd,
        n_ctx=theirs.n_positions,
        n_heads=theirs.n_head,
        d_head=theirs.n_embd // theirs.n_head,
        d_mlp=4 * theirs.n_embd,
        d_vocab=theirs.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=theirs.layer_norm_epsilon,
        model_name=MODEL,
        device="cpu",
    )
    found = HookedTransformer(config, tokenizer=tokenizer)
    found.load_and_process_state_dict(
        convert_gpt2_weights(model, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    found.cfg.model_name = MODEL
    return found.eval()


class Judge:
    """SAEBench with local data in place of its downloads."""

    def __init__(
        self,
        model: Any,
        folder: Path,
        patch: pytest.MonkeyPatch,
        sets: Sequence[QuestionSet],
        forget: Sequence[str],
        retain: Sequence[str],
    ) -> None:
        from sae_bench.evals.unlearning.utils import feature_activation, metrics

        self.model, self.folder = model, folder
        rows = {
            each.name: [{"question": q.text, "choices": list(q.choices), "answer": q.answer} for q in each.questions]
            for each in sets
        }
        patch.setattr(metrics, "load_dataset_with_retries", lambda _path, name, split: rows[name])
        patch.setattr(metrics, "load_dataset_from_name", lambda name: rows[name])
        patch.setattr(feature_activation, "get_forget_retain_data", lambda *_: (list(forget), list(retain)))
        self.metrics, self.activation = metrics, feature_activation

    def is_correct(self, name: str) -> np.ndarray:
        """Of each question in each of 24 orders."""
        orders = self.metrics.all_permutations
        found = self.metrics.calculate_MCQ_metrics(self.model, 8, str(self.folder), name, permutations=orders)
        return found["is_correct"].reshape(-1, len(orders)).astype(bool)

    def tokens(self, rows: int, seq_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of forget and retain text."""
        return self.activation.get_shuffled_forget_retain_tokens(self.model, batch_size=rows, seq_len=seq_len)

    def call_known(self, name: str, places: Sequence[int]) -> None:
        """Write the numbers of the questions that count, as SAEBench ships them."""
        full = name if name == WMDP else f"mmlu-{name.replace('_', '-')}"
        for kind in ("correct", "correct-iff-question", "correct-no-tricks"):
            for split in ("train", "test", "all"):
                path = self.folder / "data" / "question_ids" / split / f"{full}_{kind}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savetxt(path, np.array(places), fmt="%d")

    def sweep(self, sae: SAE, layer: int, config: dict[str, Any]) -> tuple[pd.DataFrame, float]:
        """Every row of its sweep, and its score."""
        from sae_bench.evals.unlearning import main
        from sae_bench.evals.unlearning.eval_config import UnlearningEvalConfig
        from sae_bench.evals.unlearning.utils.eval import run_eval_single_sae

        sae.cfg = SimpleNamespace(hook_name=f"blocks.{layer}.hook_resid_post", hook_layer=layer)  # type: ignore[assignment]
        sae.device = torch.device("cpu")  # type: ignore[assignment]
        settings = UnlearningEvalConfig(model_name=MODEL, llm_batch_size=4, **config)
        with torch.enable_grad():  # it switches gradients off for good
            run_eval_single_sae(self.model, sae, settings, str(self.folder), SAE_NAME, force_rerun=True)
        table = main.get_metrics_df(str(self.folder / SAE_NAME / "results" / "metrics"))
        return table, float(main.get_unlearning_scores(table))


def tokenizer_for_chat(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """With the tokens that open and close a turn, and those of letters after a space."""
    tokenizer.add_tokens([f" {letter}" for letter in "ABCDEF"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    return tokenizer


def tiny_chat_model(folder: Path, tokenizer: PreTrainedTokenizerFast, d: int, layers: int) -> Path:
    """A random GPT-2 with that tokenizer."""
    config = transformers.GPT2Config(
        n_embd=d,
        n_layer=layers,
        n_head=4,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
