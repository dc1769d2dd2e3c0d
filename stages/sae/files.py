"""SAEs on disk: SAELens's format (`cfg.json` and `sae_weights.safetensors`), for raw activations."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from stages.sae.architecture import PartsRow
from stages.sae.composed import ComposedSAE
from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from stages.sae.outputs import BatchNorm
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from stages.sae.threshold import JumpReLU, for_inference
from store.files import write_atomically, write_json
from store.problem import Problem

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SAELENS_VERSION = "6.54.12"
"""The version of SAELens whose format is written; its loader treats what names none as format 5."""
COMPOSED = "composed"
"""The architecture of an SAE with parts that do not fold; `stages.sae.saelens` registers it with SAELens."""


def for_raw(sae: SAE, normalisation: Normalisation) -> SAE:
    """The same SAE for raw activations: codes are `scale` times those of the normalised one."""
    if sae.row.folds:
        return fold(sae, normalisation)
    return ComposedSAE.of(sae, normalisation).eval()


@torch.no_grad()
def fold(sae: SAE, normalisation: Normalisation) -> SAE:
    """An SAE without parts that does what one in normalised units does, thresholds learned and statistics fixed.

    With `x' = (x - mean) / scale` the encoder's `x' - b_dec'` is `(x - b_dec) / scale` for
    `b_dec = mean + scale * b_dec'`, so `b_enc` and thresholds take the factor `scale` and the weights stay as they
    are. ReLU and TopK commute with a positive factor. Batch norm is affine once trained.
    """
    raw = SAE(sae.d_in, sae.d_sae, for_inference(sae.sparsifier, sae.d_sae, normalisation.scale))
    factor, offset = sae.norm.affine() if isinstance(sae.norm, BatchNorm) else (1.0, 0.0)
    raw.W_enc.copy_((sae.W_enc * factor).masked_fill(sae.pruned, 0.0))
    raw.b_enc.copy_(((sae.b_enc.double() + offset) * normalisation.scale).masked_fill(sae.pruned, 0.0))
    raw.W_dec.copy_(sae.W_dec)
    raw.b_dec.copy_(normalisation.mean.to(sae.b_dec.device) + sae.b_dec.double() * normalisation.scale)
    return raw.eval()


def save(folder: Path, sae: SAE, normalisation: Normalisation, metadata: Mapping[str, Any]) -> None:
    """Write a trained SAE so that it works on raw activations, here and in SAELens.

    `metadata` has SAELens's `model_name` and `hook_name`, and whatever else should travel with the SAE.
    """
    raw = for_raw(sae, normalisation)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(raw).items()}
    config = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **metadata,
            "prepend_bos": True,
            "sae_lens_version": SAELENS_VERSION,
            "sae_lens_training_version": None,
        },
        **_architecture(raw),
    }
    write_atomically(folder / WEIGHTS, to_bytes(tensors))
    write_json(folder / CONFIG, config)


def load(folder: Path) -> SAE:
    """An SAE saved here or by SAELens, for raw activations.

    Raises:
        Problem: the folder holds none, or one that this package does not know.
    """
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        sae = empty(config, config_path)
        sae.load_state_dict(_ours(sae, config, load_file(weights_path)))
    except FileNotFoundError as error:
        raise Problem("A saved SAE is missing.", where=error.filename or folder) from None
    except (ValueError, TypeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise Problem("A saved SAE cannot be read.", where=folder, found=error) from None
    return sae.eval()


def load_gemma_scope(path: Path) -> SAE:
    """An SAE of Gemma Scope (Lieberum et al. 2024, arXiv 2408.05147): `params.npz` with a JumpReLU SAE whose encoder
    reads activations as they are.

    Raises:
        Problem: the file is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
        d_in, d_sae = tensors["W_enc"].shape
        sae = SAE(d_in, d_sae, JumpReLU(d_sae))
        sae.load_state_dict(_ours(sae, {"apply_b_dec_to_input": False}, tensors))
    except FileNotFoundError:
        raise Problem("A saved SAE is missing.", where=path) from None
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Problem("This is no file of Gemma Scope.", where=path, found=error) from None
    return sae.eval()


@torch.no_grad()
def _ours(sae: SAE, config: Mapping[str, Any], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved tensors as an SAE of this package has them: settings that it lacks go into the weights.

    An encoder that reads `x` instead of `x - b_dec` has `b_dec W_enc` more in its bias. Pre-activations that are
    multiplied by the norms of decoder rows are those of an encoder that is, and of a decoder of unit norm.
    """
    if isinstance(sae, ComposedSAE):
        return dict(found)
    tensors = {name: tensor.float() for name, tensor in found.items()}
    if isinstance(sae.sparsifier, JumpReLU):
        tensors["sparsifier.log_threshold"] = tensors.pop("threshold").log()
        tensors["sparsifier.bandwidth"] = sae.sparsifier.bandwidth
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = tensors["W_dec"].norm(dim=-1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms
        tensors["W_dec"] = tensors["W_dec"] / norms.unsqueeze(-1)
    return tensors


def _tensors(raw: SAE) -> dict[str, Tensor]:
    """What is written: SAELens's names, or for a composed SAE those of its modules."""
    tensors = dict(raw.state_dict())
    if isinstance(raw.sparsifier, JumpReLU) and not isinstance(raw, ComposedSAE):
        tensors["threshold"] = tensors.pop("sparsifier.log_threshold").exp()
        del tensors["sparsifier.bandwidth"]
    return tensors


def _architecture(raw: SAE) -> dict[str, Any]:
    match raw.sparsifier:
        case ReLU():
            kind: dict[str, Any] = {"architecture": "standard"}
        case TopK() as topk:
            kind = {"architecture": "topk", "k": topk.k, "rescale_acts_by_decoder_norm": False}
        case JumpReLU():
            kind = {"architecture": "jumprelu"}
        case other:
            raise TypeError(f"no saved SAE uses {other}")
    if not isinstance(raw, ComposedSAE):
        return kind
    sparsifier = {"kind": kind.pop("architecture"), "k": kind.pop("k", None)}
    return {"architecture": COMPOSED, "sparsifier": sparsifier, "parts": asdict(raw.row), "context": raw.context}


def empty(config: Mapping[str, Any], where: Path) -> SAE:
    """An SAE of the shape that a configuration describes, without its weights.

    Raises:
        Problem: it has an architecture or a setting that this package does not know.
    """
    for key, value in {"normalize_activations": "none", "reshape_activations": "none"}.items():
        if config.get(key, value) != value:
            raise Problem(
                "A saved SAE has a setting that is not supported.",
                where=where,
                expected=f"{key} = {value}",
                found=config.get(key),
            )
    d_in, d_sae = config["d_in"], config["d_sae"]
    if config["architecture"] != COMPOSED:
        return SAE(d_in, d_sae, _sparsifier(config["architecture"], config, where))
    parts = TypeAdapter(PartsRow).validate_python(config["parts"])
    sparsifier = _sparsifier(config["sparsifier"]["kind"], {**config, **config["sparsifier"]}, where)
    return ComposedSAE(d_in, d_sae, sparsifier, parts, config["context"])


def _sparsifier(kind: str, config: Mapping[str, Any], where: Path) -> Sparsifier:
    match kind:
        case "standard":
            return ReLU()
        case "topk":
            return TopK(int(config["k"]))
        case "jumprelu":
            return JumpReLU(config["d_sae"])
        case other:
            raise Problem(
                "A saved SAE has an unknown architecture.",
                where=where,
                expected=f"standard, topk, jumprelu or {COMPOSED}",
                found=other,
            )
