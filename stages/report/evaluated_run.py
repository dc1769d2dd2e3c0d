"""What a training and its evaluation left behind, as the report reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.problem import Problem


@dataclass(frozen=True)
class Curve:
    """A metric over the course of a training."""

    step: np.ndarray
    """Steps, counted from 0."""
    value: np.ndarray
    """The metric at these steps."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One row of the report."""

    name: str
    """Path below the results folder: `topk/seed0`."""
    label: str
    """What tables and figures call it: the name, without the seed where all runs have the same one."""
    summary: dict[str, float | None]
    """`summary.json`."""
    core: dict[str, Any]
    """`core.json` without the metrics of single latents."""
    curves: dict[str, Curve]
    """Logged metrics of the training by name, such as `loss/total`; empty where the log is not there."""

    @property
    def facts(self) -> dict[str, Any]:
        """What was run on what, as the evaluation recorded it."""
        facts: dict[str, Any] = self.core["eval_result_unstructured"]
        return facts

    def number(self, name: str) -> float:
        """A number of the summary; NaN where it does not exist."""
        value = self.summary.get(name)
        return float("nan") if value is None else float(value)


def read_runs(results: Path, runs: Path) -> list[EvaluatedRun]:
    """Every evaluated run below `results`, by name, with the training log below `runs`.

    Raises:
        Problem: nothing was evaluated, or a result cannot be read.
    """
    folders = sorted(path.parent for path in results.rglob("core.json"))
    if not folders:
        raise Problem(
            "There is nothing to report on: no run was evaluated.",
            where=results,
            expected="a folder VARIANT/seedN with core.json and summary.json",
            do="run `pipeline evaluate` first",
        )
    one_seed = len({folder.name for folder in folders}) == 1
    return [
        _read_run(folder, folder.relative_to(results), folder.parent.name if one_seed else None, runs)
        for folder in folders
    ]


def _read_run(folder: Path, name: Path, label: str | None, runs: Path) -> EvaluatedRun:
    try:
        core = json.loads((folder / "core.json").read_text(encoding="utf-8"))
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(
            "This evaluation cannot be read.", where=folder, found=error, do="evaluate the run again"
        ) from error
    core.pop("eval_result_details", None)
    curves = read_curves(runs / name / "metrics" / "plots" / "metrics")
    return EvaluatedRun(name.as_posix(), label or name.as_posix(), summary, core, curves)


def read_curves(folder: Path) -> dict[str, Curve]:
    """DVCLive's tables of `step` and value, by their path below `folder`."""
    curves = {}
    for path in sorted(folder.rglob("*.tsv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        step = header.split("\t").index("step")
        table = np.array([row.split("\t") for row in rows], dtype=np.float64).reshape(-1, 2)
        curves[path.relative_to(folder).with_suffix("").as_posix()] = Curve(table[:, step], table[:, 1 - step])
    return curves
