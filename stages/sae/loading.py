"""Reads SAEs that were saved here, by SAELens or by Gemma Scope. Nothing that a file holds is executed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from stages.sae.architecture import PartsRow
from stages.sae.composed import ComposedSAE
from stages.sae.files import COMPOSED, CONFIG, WEIGHTS
from stages.sae.model import SAE
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from stages.sae.threshold import JumpReLU
from store.problem import Problem


def load(folder: Path) -> SAE:
    """An SAE saved here or by SAELens, for raw activations.

    Raises:
        Problem: the folder holds none, or one that this package does not know.
    """
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        sae = empty(config, config_path)
        sae.load_state_dict(_ours(sae, config, _sound(load_file(weights_path))))
    except FileNotFoundError as error:
        raise Problem("A saved SAE is missing.", where=error.filename or folder) from None
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
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
            tensors = _sound({name: torch.from_numpy(arrays[name]).float() for name in arrays.files})
        d_in, d_sae = tensors["W_enc"].shape
        sae = SAE(d_in, d_sae, JumpReLU(d_sae))
        sae.load_state_dict(_ours(sae, {"apply_b_dec_to_input": False}, tensors))
    except FileNotFoundError:
        raise Problem("A saved SAE is missing.", where=path) from None
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Problem("This is no file of Gemma Scope.", where=path, found=error) from None
    return sae.eval()


def _sound(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, of which every number is finite; a threshold may be infinite, for a latent that never fires."""
    for name, tensor in tensors.items():
        unsound = tensor.isnan() if name.endswith("threshold") else ~tensor.isfinite()
        if bool(unsound.any()):
            raise ValueError(f"{int(unsound.sum())} of {tensor.numel()} numbers of {name} are not finite")
    return dict(tensors)


@torch.no_grad()
def _ours(sae: SAE, config: Mapping[str, Any], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved tensors as an SAE of this package has them: settings that it lacks go into the weights.

    An encoder that reads `x` instead of `x - b_dec` has `b_dec W_enc` more in its bias. Pre-activations that are
    multiplied by the norms of decoder rows are those of an encoder that is, and of a decoder of unit norm. A threshold
    below 0 lets pass what a ReLU does, as 0 would.
    """
    if isinstance(sae, ComposedSAE):
        return dict(found)
    tensors = {name: tensor.float() for name, tensor in found.items()}
    if isinstance(sae.sparsifier, JumpReLU):
        tensors["sparsifier.log_threshold"] = tensors.pop("threshold").clamp(min=0.0).log()
        tensors["sparsifier.bandwidth"] = sae.sparsifier.bandwidth
    if not _flag(config, "apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    if _flag(config, "rescale_acts_by_decoder_norm", False):
        norms = tensors["W_dec"].norm(dim=-1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms
        tensors["W_dec"] = tensors["W_dec"] / norms.unsqueeze(-1)
    return tensors


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}, neither true nor false")
    return value


def empty(config: Mapping[str, Any], where: Path) -> SAE:
    """An SAE of the shape that a configuration describes, without its weights.

    Raises:
        Problem: it has an architecture or a setting that this package does not know.
    """
    config = _since_version_6(config, where)
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


def _since_version_6(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """A configuration as SAELens writes it since version 6, which itself reads older ones so.

    Before, a TopK SAE could be a `standard` one with another activation function, and whether inputs are normalised
    was yes or no.

    Raises:
        Problem: it has an activation function that this package does not know.
    """
    found = {"architecture": "standard", **config}
    function = config.get("activation_fn_str") or config.get("activation_fn") or "relu"
    k = dict(config.get("activation_fn_kwargs") or {}).get("k", config.get("k"))
    if function not in ("relu", "topk") or (function == "topk" and k is None):
        raise Problem(
            "A saved SAE has an unknown activation function.",
            where=where,
            expected="relu, or topk with its k in activation_fn_kwargs",
            found=function,
        )
    if function == "topk":
        found |= {"architecture": "topk", "k": k}
    normalised = config.get("normalize_activations")
    if normalised is None or isinstance(normalised, bool):
        found["normalize_activations"] = "expected_average_only_in" if normalised else "none"
    return found


def _sparsifier(kind: str, config: Mapping[str, Any], where: Path) -> Sparsifier:
    match kind:
        case "standard":
            return ReLU()
        case "topk":
            k = config["k"]
            if type(k) is not int or not 1 <= k <= config["d_sae"]:
                raise ValueError(f"k is {k!r}, and has to be a whole number from 1 to d_sae = {config['d_sae']}")
            return TopK(k)
        case "jumprelu":
            return JumpReLU(config["d_sae"])
        case other:
            raise Problem(
                "A saved SAE has an unknown architecture.",
                where=where,
                expected=f"standard, topk, jumprelu or {COMPOSED}",
                found=other,
            )
