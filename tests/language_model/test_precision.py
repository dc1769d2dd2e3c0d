from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages import precision


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({}, torch.float32),
        ({"avx2": True, "avx512_f": True, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
    ],
)
def test_bfloat16_only_where_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", **units})
    assert precision.native_dtype() == expected
    assert ("bf16" in precision.cpu_capability()) == (expected == torch.bfloat16)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    possible, reason = precision.can_compile()
    assert not possible and "no C++ compiler" in reason


def test_no_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    monkeypatch.setattr(precision.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    possible, reason = precision.can_compile()
    assert not possible and "Python.h" in reason
    (tmp_path / "Python.h").touch()
    assert precision.can_compile()[0]
