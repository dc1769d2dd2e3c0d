"""What the core metrics are measured on: rows of tokens, their documents and their activations."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int32
from torch import Tensor


class Rows(Protocol):
    """An activation store, or text over which the language model runs as it is read."""

    @property
    def layers(self) -> dict[int, int]:
        """Layer -> width d of its residual stream."""

    def tokens(self, rows: np.ndarray) -> Int32[np.ndarray, "n context"]:
        """Token ids of some rows."""

    def document(self, rows: np.ndarray) -> Int32[np.ndarray, "n context"]:
        """Number of the document of each token; -1 at BOS and padding, which is what is not kept."""

    def read(self, layer: int, rows: np.ndarray) -> Float[Tensor, "n context d"]:
        """Activations after a layer."""
