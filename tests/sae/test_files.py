"""Saved SAEs work on raw activations, here and in SAELens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.sae import SAE, Normalisation, load, save
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from store.problem import Problem

D_IN, D_SAE = 24, 64
METADATA = {
    "model_name": "google/gemma-3-270m",
    "hook_name": "blocks.11.hook_resid_post",
    "context_size": 128,
}
SPARSIFIERS = [ReLU(), TopK(6)]


def trained(sparsifier: Sparsifier) -> tuple[SAE, Normalisation, torch.Tensor]:
    """An SAE with every parameter in use, and raw activations of the embedded Gemma's proportions."""
    generator = torch.Generator().manual_seed(0)
    sae = SAE(D_IN, D_SAE, sparsifier)
    sae.initialise(0)
    with torch.no_grad():
        sae.W_enc.mul_(1.1)
        sae.b_enc.copy_(0.1 * torch.randn(D_SAE, generator=generator))
        sae.b_dec.copy_(0.1 * torch.randn(D_IN, generator=generator))
    mean = 2000 * torch.randn(D_IN, generator=generator, dtype=torch.float64)
    raw = mean + 800 * torch.randn(5, 9, D_IN, generator=generator, dtype=torch.float64)
    return sae, Normalisation(mean, 800 * D_IN**0.5), raw


def saved(folder: Path, sparsifier: Sparsifier) -> tuple[SAE, Normalisation, torch.Tensor]:
    sae, normalisation, raw = trained(sparsifier)
    save(folder, sae, normalisation, METADATA)
    return sae, normalisation, raw


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
def test_saved_sae_on_raw_activations_equals_the_trained_one_on_normalised(
    sparsifier: Sparsifier, tmp_path: Path
) -> None:
    sae, normalisation, raw = saved(tmp_path, sparsifier)
    loaded = load(tmp_path)
    normalised = ((raw - normalisation.mean) / normalisation.scale).float()
    scale = normalisation.scale
    torch.testing.assert_close(loaded.encode(raw.float()) / scale, sae.encode(normalised), rtol=1e-4, atol=1e-5)
    expected = sae(normalised).double() * scale + normalisation.mean
    torch.testing.assert_close(loaded(raw.float()).double(), expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
def test_saelens_loads_the_same_sae(sparsifier: Sparsifier, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    _, _, raw = saved(tmp_path, sparsifier)
    ours, theirs = load(tmp_path), sae_lens.SAE.load_from_disk(str(tmp_path))
    x = raw.float()
    codes, expected = ours.encode(x), theirs.encode(x)
    assert (expected > 0).any() and (expected == 0).any()
    assert (codes - expected).norm() <= 1e-4 * expected.norm()
    assert (ours.decode(codes) - theirs.decode(expected)).norm() <= 1e-4 * raw.norm()
    assert (ours(x) - theirs(x)).norm() <= 1e-4 * raw.norm()
    assert theirs.cfg.architecture() == ("topk" if isinstance(sparsifier, TopK) else "standard")
    assert theirs.cfg.metadata.hook_name == METADATA["hook_name"]
    assert theirs.cfg.metadata.prepend_bos is True


def test_saelens_can_save_what_we_load(tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    _, _, raw = saved(tmp_path / "ours", TopK(6))
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "ours"))
    theirs.save_model(str(tmp_path / "theirs"))
    x = raw.float()
    torch.testing.assert_close(load(tmp_path / "theirs").encode(x), load(tmp_path / "ours").encode(x))


def test_saving_twice_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        saved(tmp_path / name, TopK(6))
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("architecture", "gated", "unknown architecture"),
        ("apply_b_dec_to_input", False, "not supported"),
        ("normalize_activations", "layer_norm", "not supported"),
        ("rescale_acts_by_decoder_norm", True, "not supported"),
        ("d_sae", 63, "cannot be read"),
        ("k", None, "cannot be read"),
    ],
)
def test_files_that_would_load_wrongly_are_refused(key: str, value: Any, what: str, tmp_path: Path) -> None:
    saved(tmp_path, TopK(6))
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(Problem, match=what):
        load(tmp_path)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_damaged_and_missing_files(name: str, tmp_path: Path) -> None:
    saved(tmp_path, ReLU())
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Problem, match="cannot be read"):
        load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(Problem, match="is missing"):
        load(tmp_path)
