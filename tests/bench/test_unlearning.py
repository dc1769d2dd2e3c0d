"""The table of unlearnings, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import unlearning


def setting(
    forget_accuracy: float, retain_accuracy: float, forget_loss: float, retain_loss: float, **how: Any
) -> dict[str, Any]:
    accuracies = {"forget_accuracy": forget_accuracy, "retain_accuracy": retain_accuracy}
    return {**how, **accuracies, "forget_loss": forget_loss, "retain_loss": retain_loss}


def test_of_each_window_the_best_setting_that_spares_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = setting(1.0, 1.0, 3.0, 2.5)
    sweep = [
        setting(0.9, 0.995, 3.2, 2.505, window=1),
        setting(0.7, 0.96, 3.6, 2.55, window=1),
        setting(0.8, 0.98, 3.5, 2.52, window=8),
        setting(0.1, 0.50, 9.0, 4.00, window=8),
    ]
    (tmp_path / "topk.json").write_text(json.dumps({"baseline": baseline, "sweep": sweep}))
    (tmp_path / "rmu.json").write_text(json.dumps({"baseline": baseline, "sweep": [setting(0.3, 0.97, 6.0, 2.59)]}))
    monkeypatch.setattr(unlearning, "FOLDER", tmp_path)
    head, _, *lines = unlearning.table().splitlines()
    assert lines == [
        "| topk | 1 | 0.900 | 0.900 | 0.700 | 0.200 | 0.200 | 0.600 |",
        "| topk | 8 | none | 0.800 | 0.800 | none | 0.500 | 0.500 |",
        "| warmup2000 | not run |",
        "| t-sae | not run |",
        "| rmu |  | none | 0.300 | 0.300 | none | none | 3.000 |",
    ]
    assert head.count("|") == lines[0].count("|")
