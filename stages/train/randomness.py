"""Random numbers that depend on seed, step and purpose alone: a resumed run needs no random state."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def rng_at(seed: int, step: int, purpose: str) -> np.random.Generator:
    """numpy's generator for one purpose at one step."""
    return np.random.Generator(np.random.PCG64([seed, step, zlib.crc32(purpose.encode())]))


def generator_at(seed: int, step: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """torch's generator for one purpose at one step; devices of two kinds draw different numbers."""
    return torch.Generator(device).manual_seed(int(rng_at(seed, step, purpose).integers(2**63)))
