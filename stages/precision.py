"""What this machine is good at: which number format to multiply in, and whether it can compile code."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""CPU capabilities (as `torch.cpu.get_capabilities` names them) that multiply bfloat16 in hardware."""


def native_dtype() -> torch.dtype:
    """bfloat16 where hardware multiplies it (CUDA, AMX, AVX512-bf16, Armv8.6), else float32.

    On an x86 CPU without these units bfloat16 products run about 100 times slower than float32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(unit) for unit in BF16_UNITS) else torch.float32


def cpu_capability() -> str:
    """The kind of machine as far as arithmetic goes, for example `x86_64 AVX2` or `x86_64 AVX512 amx_bf16`.

    Two machines of one kind, with equal library versions, are expected to compute equal bits.
    """
    capabilities = torch.cpu.get_capabilities()
    units = [unit for unit in BF16_UNITS if capabilities.get(unit)]
    return " ".join([capabilities["architecture"], torch.backends.cpu.get_cpu_capability(), *units])


def can_compile() -> tuple[bool, str]:
    """Whether `torch.compile` can produce CPU code here (it needs a C++ compiler and Python.h), and why."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # what torch looks for
    if shutil.which(compiler) is None:
        return False, f"no C++ compiler ({compiler}) on the PATH"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return False, f"no Python.h: the headers of Python {sys.version_info.major}.{sys.version_info.minor}"
    return True, f"C++ compiler {compiler}"
