"""Activations as numbers on disk."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from store.problem import Problem


def to_storage(x: Float[Tensor, "*shape"], dtype: str) -> np.ndarray:
    """Round activations to the storage dtype; bfloat16 comes back as uint16, which numpy knows.

    Raises:
        Problem: if a value is not finite, in the model's output or once rounded.
    """
    stored = x.to(getattr(torch, dtype))
    if not torch.isfinite(stored).all():
        largest = x.abs().nan_to_num(posinf=float("inf")).max().item()
        raise Problem(
            "Activations are not finite numbers in the storage dtype.",
            expected=f"finite {dtype} values (at most {torch.finfo(stored.dtype).max:.5g})",
            found=f"largest magnitude {largest:.5g} in the {str(x.dtype).removeprefix('torch.')} forward pass",
            do="store bfloat16 or float32 (harvest.dtype); if the forward pass itself overflows, set "
            "model.dtype to float32",
        )
    stored = stored.cpu()
    return stored.view(torch.uint16).numpy() if stored.dtype == torch.bfloat16 else stored.numpy()


def from_storage(values: np.ndarray, dtype: str) -> Tensor:
    """The tensor that `to_storage` wrote."""
    x = torch.from_numpy(np.ascontiguousarray(values))
    return x.view(torch.bfloat16) if dtype == "bfloat16" else x
