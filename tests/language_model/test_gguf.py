from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.language_model import gguf
from stages.language_model.config import ModelConfig
from stages.language_model.model import load, n_layers
from store.problem import Problem
from tests.language_model.test_corpus import install
from tests.tiny import SENTENCES, tiny_model_folder

writer_module = pytest.importorskip("gguf", reason="GGUF is an extra")
HEADS, KV_HEADS = 4, 2


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in llama.cpp's order of rotary dimensions."""
    d_head = weight.shape[0] // heads
    return weight.reshape(heads, 2, d_head // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, folder: Path) -> None:
    """Write a tiny Llama as GGUF in float32, the way llama.cpp's converter does."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = model.config
    writer = writer_module.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(tokens))])
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    names = writer_module.get_tensor_name_map(writer_module.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy()
        if "q_proj" in name:
            weight = interleaved(weight, HEADS)
        if "k_proj" in name:
            weight = interleaved(weight, KV_HEADS)
        writer.add_tensor(names.get_name(name, (".weight",)), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Llama as a Hugging Face folder and as a GGUF file."""
    base = tmp_path_factory.mktemp("gguf")
    folder = tiny_model_folder(base, "llama")
    write_gguf(base / "tiny.gguf", folder)
    return folder, base / "tiny.gguf"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tsae-pipeline" / "models"


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_converts_to_the_same_model(tiny: tuple[Path, Path], own_cache: Path) -> None:
    folder, file = tiny
    config = ModelConfig("tiny", str(file), sha256_of(file), dtype="float32")
    found = load(config)
    expected = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([found.tokenizer(SENTENCES[0]).input_ids])
    original = AutoTokenizer.from_pretrained(folder)
    assert tokens[0].tolist() == original(SENTENCES[0]).input_ids
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], weight.bfloat16().float()), name
    assert (found.pad_id, found.eos_id, found.bos_id) == (0, 1, 2)
    assert sorted(path.name for path in own_cache.iterdir()) == [
        sha256_of(file)[:16],
        sha256_of(file)[:16] + ".lock",
    ]


def test_converts_once(tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = tiny
    first = gguf.converted([file])
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    assert gguf.converted([file]) == gguf.converted([file], sha256_of(file)) == first


def test_goes_on_after_a_conversion_that_was_killed(tiny: tuple[Path, Path], own_cache: Path) -> None:
    _, file = tiny
    left_over = own_cache / (sha256_of(file)[:16] + ".partial")
    left_over.mkdir(parents=True)
    (left_over / "model.safetensors").write_bytes(b"half")
    gguf.converted([file])
    assert not left_over.exists()


def test_package_in_parts(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts lie in distributions of their own, which the named one requires; none is imported."""
    content = tiny[1].read_bytes()
    thirds = [content[: len(content) // 3], content[len(content) // 3 : -999], content[-999:]]
    site = tmp_path / "site"
    for i, part in enumerate(thirds):
        install(site, f"fake-part{i}", {f"fake_part{i}/data/tiny.gguf.part{i:02}": part})
    main = {"fake_model/__init__.py": b"raise SystemExit", "fake_model/notes.md": b""}
    install(
        site, "fake-model", main, requires=("fake-part1 (==1.0)", "fake-part0>=1", "fake-part2; python_version > '3'")
    )
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    config = ModelConfig("tiny", "package:fake-model", sha256_of(tiny[1]))
    assert n_layers(config) == 3
    assert load(config).n_layers == 3
    (site / "fake_part1/data/tiny.gguf.part01").write_bytes(thirds[1][:-1] + b"?")
    with pytest.raises(Problem, match="checksum differs"):
        load(ModelConfig("tiny", "package:fake-model", "0" * 64))


def test_package_that_is_not_installed() -> None:
    with pytest.raises(Problem, match="not installed"):
        gguf.package_parts("no-such-model")
    with pytest.raises(Problem, match="carries no GGUF"):
        gguf.package_parts("pytest")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF"),
        (b"GGUF\x03\x00", "damaged"),
        (b"GGUF" + b"\xff" * 64, "damaged"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 0) + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000,
            "damaged",
        ),
    ],
)
def test_a_file_that_is_no_gguf(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(Problem, match=message):
        n_layers(ModelConfig("bad", str(file)))
    with pytest.raises(Problem):
        load(ModelConfig("bad", str(file)))


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such GGUF"):
        load(ModelConfig("absent", str(tmp_path / "absent.gguf")))
