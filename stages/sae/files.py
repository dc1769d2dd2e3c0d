"""Writes SAEs in SAELens's format (`cfg.json` and `sae_weights.safetensors`), for raw activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from stages.sae.composed import ComposedSAE
from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from stages.sae.outputs import BatchNorm
from stages.sae.sparsifier import ReLU, TopK
from stages.sae.threshold import JumpReLU
from store.files import write_atomically, write_json

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
    raw = SAE(sae.d_in, sae.d_sae, sae.sparsifier.for_inference(sae.d_sae, normalisation.scale))
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
