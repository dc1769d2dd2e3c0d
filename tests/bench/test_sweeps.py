"""The tables of sweeps, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import sweeps


def cell(variant: str, axes: dict[str, Any], summary: dict[str, float] | None, collapsed: str | None) -> dict[str, Any]:
    return {
        "variant": variant,
        "axes": axes,
        "steps": 2000,
        "steps_done": 2000 if summary else 12,
        "collapsed": collapsed,
        "summary": summary,
    }


def test_levels_and_collapsed_cells_stand_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"l0": 32.04, "explained_variance_centred": 0.86, "dead_latents": 20, "tcs_short": 0.1}
    levels = {
        "level0_l0": 22.2,
        "level0_smoothness": 0.1493,
        "level0_smoothness_inputs_permuted": 0.1333,
        "level1_l0": 0.4,
    }
    cells = [
        cell("t-sae", {"weight": 1}, numbers | levels, "level 2 has L0 0.4"),
        cell("t-sae", {"weight": 9}, None, "not finite"),
        cell("baseline", {}, numbers, None),
    ]
    (tmp_path / "contrast.json").write_text(json.dumps({"asks": "why", "cells": cells}))
    monkeypatch.setattr(sweeps, "FOLDER", tmp_path)
    title, _, head, _, *lines = sweeps.table("contrast").splitlines()
    assert title == "`contrast`: why"
    columns = [f"{what} of level {level}" for level in (1, 2) for what in ("L0", "smoothness")]
    assert [column.removesuffix(" (permuted)") for column in head.strip("| ").split(" | ")[-5:-1]] == columns
    assert lines == [
        "| t-sae | 1 | 2,000 of 2,000 | 0.8600 | 32.0 | 20 | 0.1000 () |  |  "
        "| 22.2 | 0.1493 (0.1333) | 0.4 |  | level 2 has L0 0.4 |",
        "| t-sae | 9 | 12 of 2,000 |  |  |  |  |  |  |  |  |  |  | not finite |",
        "| baseline |  | 2,000 of 2,000 | 0.8600 | 32.0 | 20 | 0.1000 () |  |  |  |  |  |  |  |",
    ]
    assert all(line.count("|") == head.count("|") for line in lines)


def test_a_sweep_that_was_not_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "FOLDER", tmp_path)
    assert sweeps.table("windows") == "windows: not run"


def test_what_is_kept_are_the_numbers_of_the_table() -> None:
    summary = {"l0": 1.0, "tcs_short_inputs_permuted": 0.1, "level0_l0": 2.0, "lift_edges": 4.0}
    assert sweeps.kept(summary) == {"l0": 1.0, "tcs_short_inputs_permuted": 0.1, "level0_l0": 2.0}
    assert sweeps.kept(None) is None
