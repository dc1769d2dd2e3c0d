"""SAEs on disk: SAELens's format (`cfg.json` and `sae_weights.safetensors`), in units of raw activations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from stages.sae.sparsifier import ReLU, Sparsifier, TopK
from store.files import write_atomically, write_json
from store.problem import Problem

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SAELENS_VERSION = "6.54.12"
"""The version of SAELens whose format is written; its loader treats what names none as format 5."""


@torch.no_grad()
def fold(sae: SAE, normalisation: Normalisation) -> SAE:
    """The same SAE for raw activations: codes are `scale` times those of the normalised one.

    With `x' = (x - mean) / scale` the encoder's `x' - b_dec'` is `(x - b_dec) / scale` for
    `b_dec = mean + scale * b_dec'`, so `b_enc` takes the factor `scale` and the weights stay as they are. ReLU and
    TopK commute with a positive factor.
    """
    raw = SAE(sae.d_in, sae.d_sae, sae.sparsifier)
    raw.W_enc.copy_(sae.W_enc)
    raw.W_dec.copy_(sae.W_dec)
    raw.b_enc.copy_(sae.b_enc.double() * normalisation.scale)
    raw.b_dec.copy_(normalisation.mean.to(sae.b_dec.device) + sae.b_dec.double() * normalisation.scale)
    return raw


def save(folder: Path, sae: SAE, normalisation: Normalisation, metadata: Mapping[str, Any]) -> None:
    """Write a trained SAE so that it works on raw activations, here and in SAELens.

    `metadata` has SAELens's `model_name` and `hook_name`, and whatever else should travel with the SAE.
    """
    raw = fold(sae, normalisation)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in raw.state_dict().items()}
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
        **_architecture(sae.sparsifier),
    }
    write_atomically(folder / WEIGHTS, to_bytes(tensors))
    write_json(folder / CONFIG, config)


def load(folder: Path) -> SAE:
    """A saved SAE, for raw activations. Raises a `Problem` where the folder holds none that this package knows."""
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        tensors = load_file(weights_path)
        sae = SAE(config["d_in"], config["d_sae"], _sparsifier(config, config_path))
        sae.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise Problem("A saved SAE is missing.", where=error.filename or folder) from None
    except (ValueError, TypeError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise Problem("A saved SAE cannot be read.", where=folder, found=error) from None
    return sae


def _architecture(sparsifier: Sparsifier) -> dict[str, Any]:
    match sparsifier:
        case ReLU():
            return {"architecture": "standard"}
        case TopK(k):
            return {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
    raise TypeError(f"SAELens has no architecture for {sparsifier}")


def _sparsifier(config: Mapping[str, Any], path: Path) -> Sparsifier:
    """The sparsifier of a configuration whose other settings are the ones that `save` writes."""
    expected = {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    if config["architecture"] == "topk":
        expected["rescale_acts_by_decoder_norm"] = False
    for key, value in expected.items():
        if config.get(key) != value:
            raise Problem(
                "A saved SAE has a setting that is not supported.",
                where=path,
                expected=f"{key} = {value}",
                found=config.get(key),
            )
    match config["architecture"]:
        case "standard":
            return ReLU()
        case "topk":
            return TopK(int(config["k"]))
        case other:
            raise Problem(
                "A saved SAE has an unknown architecture.",
                where=path,
                expected="standard or topk",
                found=other,
            )
