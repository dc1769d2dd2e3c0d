"""Saved SAEs work on raw activations, here and in SAELens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.sae import SAE, Normalisation, load, load_gemma_scope, save
from stages.sae.architecture import (
    NO_PARTS,
    AttentionRow,
    ConvolutionRow,
    GateRow,
    IntegratorRow,
    NormRow,
    PartsRow,
    PositionRow,
    PredictionRow,
    ResidualRow,
    ThresholdRow,
)
from stages.sae.composed import ComposedSAE
from stages.sae.files import WEIGHTS
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from stages.sae.threshold import BatchTopK, JumpReLU
from store.problem import Problem

D_IN, D_SAE, CONTEXT = 24, 64, 9
METADATA = {
    "model_name": "google/gemma-3-270m",
    "hook_name": "blocks.11.hook_resid_post",
    "context_size": 128,
}
ARCHITECTURES = {"ReLU": "standard", "TopK": "topk", "JumpReLU": "jumprelu", "BatchTopK": "jumprelu"}
BATCH_NORM = PartsRow(norm=NormRow("batch"))
COMPOSED = [
    PartsRow(position=PositionRow(3, 0.5), attention=AttentionRow(4, layer_norm=True, skip=True)),
    PartsRow(convolution=ConvolutionRow(3, (1, 2)), gate=GateRow(4, 2.0)),
    PartsRow(residual=ResidualRow(16), norm=NormRow("batch")),
    PartsRow(norm=NormRow("layer")),
    PartsRow(norm=NormRow("layer_of_codes")),
    PartsRow(integrator=IntegratorRow(0.999)),
    PartsRow(prediction=PredictionRow(2, 4)),
]


def sparsifiers() -> list[Sparsifier]:
    return [ReLU(), TopK(6), JumpReLU(D_SAE, ThresholdRow(0.5, 1.0)), BatchTopK(6)]


def trained(sparsifier: Sparsifier, parts: PartsRow = NO_PARTS) -> tuple[SAE, Normalisation, torch.Tensor]:
    """An SAE with every parameter in use, and raw activations of the embedded Gemma's proportions."""
    generator = torch.Generator().manual_seed(0)
    sae = SAE(D_IN, D_SAE, sparsifier, parts, CONTEXT)
    sae.initialise(0)
    mean = 2000 * torch.randn(D_IN, generator=generator, dtype=torch.float64)
    raw = mean + 800 * torch.randn(5, CONTEXT, D_IN, generator=generator, dtype=torch.float64)
    normalisation = Normalisation(mean, 800 * D_IN**0.5)
    document = torch.zeros(5, CONTEXT, dtype=torch.int32)
    x = normalisation.apply(raw, document >= 0)
    sae.calibrate(x, document)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if not name.startswith("W_"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        sae.W_enc.mul_(1.1)
        sae.pruned[:3] = True
        sae.encode(x, document)
        sae.follow()
    return sae.eval(), normalisation, raw


def saved(folder: Path, sparsifier: Sparsifier, parts: PartsRow = NO_PARTS) -> tuple[SAE, Normalisation, torch.Tensor]:
    sae, normalisation, raw = trained(sparsifier, parts)
    save(folder, sae, normalisation, METADATA)
    return sae, normalisation, raw


def assert_close_on_raw(found: torch.Tensor, expected: torch.Tensor, raw: torch.Tensor) -> None:
    """At every token the difference is at most 1e-4 of the norm of its raw activations.

    That norm is the unit of everything that a saved SAE takes and gives: decoder rows have norm 1, so an error of a
    code, too, moves the reconstruction by as much.
    """
    error = (found.double() - expected.double()).norm(dim=-1) / raw.norm(dim=-1)
    assert error.max() <= 1e-4, f"{error.max():.3g} of the norm of the raw activations"


def all_kinds() -> list[tuple[Sparsifier, PartsRow]]:
    plain = [(sparsifier, parts) for parts in (NO_PARTS, BATCH_NORM) for sparsifier in sparsifiers()]
    return [
        *plain,
        *((TopK(6), parts) for parts in COMPOSED),
        (BatchTopK(6), COMPOSED[0]),
        (sparsifiers()[2], COMPOSED[0]),
    ]


@pytest.mark.parametrize(("sparsifier", "parts"), all_kinds())
def test_saved_sae_on_raw_activations_equals_the_trained_one_on_normalised(
    sparsifier: Sparsifier, parts: PartsRow, tmp_path: Path
) -> None:
    sae, normalisation, raw = saved(tmp_path, sparsifier, parts)
    loaded = load(tmp_path)
    assert isinstance(loaded, ComposedSAE) == (parts not in (NO_PARTS, BATCH_NORM))
    normalised = ((raw - normalisation.mean) / normalisation.scale).float()
    scale = normalisation.scale
    codes, expected_codes = loaded.encode(raw.float()), sae.encode(normalised)
    assert_close_on_raw(codes, expected_codes * scale, raw)
    events, expected_events = (each.encoding(x).codes.events for each, x in ((loaded, raw.float()), (sae, normalised)))
    assert torch.equal(events.count(), expected_events.count()) and (events.count() > 0).any()
    keep = torch.ones(raw.shape[:-1], dtype=torch.bool)
    assert torch.equal(events.firings(keep), expected_events.firings(keep)), "negative codes are active too"
    assert not events.dense()[..., :3].any(), "pruned latents stay silent"
    decoded, reconstructed = (
        of.double() * scale + normalisation.mean for of in (sae.decode(expected_codes), sae(normalised))
    )
    assert_close_on_raw(loaded.decode(expected_codes * scale), decoded, raw)
    assert_close_on_raw(loaded(raw.float()), reconstructed, raw)
    assert_close_on_raw(loaded.decode(codes), loaded(raw.float()), raw)


@pytest.mark.parametrize(("sparsifier", "parts"), all_kinds())
def test_saelens_loads_the_same_sae(sparsifier: Sparsifier, parts: PartsRow, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    pytest.importorskip("stages.sae.saelens")
    _, _, raw = saved(tmp_path, sparsifier, parts)
    ours, theirs = load(tmp_path), sae_lens.SAE.load_from_disk(str(tmp_path))
    x = raw.float()
    codes, expected = ours.encode(x), theirs.encode(x)
    assert (expected > 0).any()
    assert (codes - expected).norm() <= 1e-4 * expected.norm()
    assert (ours.decode(codes) - theirs.decode(expected)).norm() <= 1e-4 * raw.norm()
    assert (ours(x) - theirs(x)).norm() <= 1e-4 * raw.norm()
    composed = parts not in (NO_PARTS, BATCH_NORM)
    assert theirs.cfg.architecture() == ("composed" if composed else ARCHITECTURES[type(sparsifier).__name__])
    assert theirs.cfg.metadata.hook_name == METADATA["hook_name"]
    assert theirs.cfg.metadata.prepend_bos is True
    assert torch.equal(theirs.b_enc, load_file(tmp_path / WEIGHTS)["b_enc"])  # SAEBench reads it


@pytest.mark.parametrize("parts", COMPOSED)
def test_saelens_saves_and_loads_composed_saes(parts: PartsRow, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    pytest.importorskip("stages.sae.saelens")
    _, _, raw = saved(tmp_path / "ours", TopK(6), parts)
    sae_lens.SAE.load_from_disk(str(tmp_path / "ours")).save_model(str(tmp_path / "theirs"))
    torch.testing.assert_close(
        load(tmp_path / "theirs").encode(raw.float()), load(tmp_path / "ours").encode(raw.float())
    )


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
        ("normalize_activations", "layer_norm", "not supported"),
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


def foreign(kind: str, **settings: Any) -> Any:
    """An SAE of SAELens with random weights."""
    sae_lens = pytest.importorskip("sae_lens")
    config_class, sae_class = {
        "standard": (sae_lens.StandardSAEConfig, sae_lens.StandardSAE),
        "topk": (sae_lens.TopKSAEConfig, sae_lens.TopKSAE),
        "jumprelu": (sae_lens.JumpReLUSAEConfig, sae_lens.JumpReLUSAE),
    }[kind]
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **({"k": 6} if kind == "topk" else {}), **settings))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
    return sae


@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("applied", [True, False])
def test_saes_of_saelens_load(kind: str, applied: bool, tmp_path: Path) -> None:
    rescaled = {"rescale_acts_by_decoder_norm": True} if kind == "topk" else {}
    theirs = foreign(kind, apply_b_dec_to_input=applied, **rescaled)
    theirs.save_model(str(tmp_path))
    ours, x = load(tmp_path), torch.randn(4, 5, D_IN)
    codes = theirs.encode(x)
    assert (codes > 0).any() and (codes == 0).any()
    torch.testing.assert_close(ours.encode(x), codes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "old"),
    [
        ("topk", {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}}),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}}),
        ("standard", {"architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}}),
        ("standard", {}),
    ],
)
@pytest.mark.parametrize("normalised", [False, None, "none"])
def test_saes_of_saelens_before_version_6_load(kind: str, old: dict[str, Any], normalised: Any, tmp_path: Path) -> None:
    """Version 6 itself reads them so."""
    sae_lens = pytest.importorskip("sae_lens")
    foreign(kind).save_model(str(tmp_path))
    flat = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "apply_b_dec_to_input": True, "hook_name": "any"}
    (tmp_path / "cfg.json").write_text(json.dumps({**flat, "normalize_activations": normalised, **old}))
    ours, theirs = load(tmp_path), sae_lens.SAE.load_from_disk(str(tmp_path))
    x = torch.randn(4, 5, D_IN)
    codes = theirs.encode(x)
    assert theirs.cfg.architecture() == kind and (codes > 0).any()
    torch.testing.assert_close(ours.encode(x), codes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ({"activation_fn_str": "tanh-relu"}, "unknown activation function"),
        ({"activation_fn": "gelu"}, "unknown activation function"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {}}, "unknown activation function"),
        ({"activation_fn_str": "topk"}, "unknown activation function"),
        ({"normalize_activations": True}, "not supported"),
    ],
)
def test_old_settings_that_are_not_known_are_refused(old: dict[str, Any], message: str, tmp_path: Path) -> None:
    foreign("standard").save_model(str(tmp_path))
    flat = {"d_in": D_IN, "d_sae": D_SAE, "architecture": "standard"}
    (tmp_path / "cfg.json").write_text(json.dumps({**flat, **old}))
    with pytest.raises(Problem, match=message):
        load(tmp_path)


def test_saes_of_gemma_scope_load(tmp_path: Path) -> None:
    theirs = foreign("jumprelu", apply_b_dec_to_input=False)
    np.savez(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    ours, x = load_gemma_scope(tmp_path / "params.npz"), torch.randn(4, 5, D_IN)
    torch.testing.assert_close(ours.encode(x), theirs.encode(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_file_of_gemma_scope(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(Problem, match="no file of Gemma Scope"):
        load_gemma_scope(tmp_path / "params.npz")
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))  # a pickle
    with pytest.raises(Problem, match="no file of Gemma Scope"):
        load_gemma_scope(tmp_path / "params.npz")
    with pytest.raises(Problem, match="missing"):
        load_gemma_scope(tmp_path / "other.npz")


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
