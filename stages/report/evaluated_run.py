"""What a training and its evaluation left behind, as the report reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.versions import TEMPORAL, fingerprint
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
    group: str
    """What it shares with its other seeds: the variant, with steps and store where one variant has several."""
    summary: dict[str, float | None]
    """`summary.json`."""
    core: dict[str, Any]
    """`core.json` without the metrics of single latents."""
    temporal: dict[str, Any] | None
    """`temporal.json`; None for an evaluation that did not measure it."""
    curves: dict[str, Curve]
    """Logged metrics of the training by name, such as `loss/total`; empty where the log is not there."""

    @property
    def facts(self) -> dict[str, Any]:
        """What was run on what, as the evaluation recorded it."""
        facts: dict[str, Any] = self.core["eval_result_unstructured"]
        return facts

    @property
    def variant(self) -> str:
        """Name of the variant: `warmup2000`, or `warmup2000+no-temporal` for a control of it."""
        return Path(self.name).parent.name

    @property
    def setting(self) -> tuple[str, float, str]:
        """Seed, planned steps and store: a run is compared with a control that has the same ones."""
        return self.core["sae_lens_id"], self.number("steps_planned"), self.facts["store"]["root"]

    @property
    def has_temporal_terms(self) -> bool:
        """Whether the variant's loss has terms that use the order of the tokens."""
        return bool(self.facts["training"].get("row", {}).get("objective", {}).get("temporal"))

    def number(self, name: str) -> float:
        """A number of the summary; NaN where it does not exist."""
        value = self.summary.get(name)
        return float("nan") if value is None else float(value)


def grouped(runs: Sequence[EvaluatedRun]) -> dict[str, list[EvaluatedRun]]:
    """Runs that differ in nothing but the seed, by the label of their group, in the order of the table."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return groups


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
    return _with_groups(
        [
            _read_run(folder, folder.relative_to(results), folder.parent.name if one_seed else None, runs)
            for folder in folders
        ]
    )


def _read_run(folder: Path, name: Path, label: str | None, runs: Path) -> EvaluatedRun:
    try:
        core = json.loads((folder / "core.json").read_text(encoding="utf-8"))
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        path = folder / "temporal.json"
        temporal = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError) as error:
        raise Problem(
            "This evaluation cannot be read.", where=folder, found=error, do="evaluate the run again"
        ) from error
    core.pop("eval_result_details", None)
    expected = fingerprint(TEMPORAL, core["eval_result_unstructured"].get("decided", {}))
    if temporal is not None and temporal["fingerprint"] != expected:
        raise Problem(
            "core.json and temporal.json are of two evaluations, or of an older version.",
            where=folder,
            expected=f"fingerprint {expected}",
            found=temporal["fingerprint"],
            do="evaluate the run again",
        )
    curves = read_curves(runs / name / "metrics" / "plots" / "metrics")
    return EvaluatedRun(name.as_posix(), label or name.as_posix(), "", summary, core, temporal, curves)


def _with_groups(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Name every run's group by its variant, and by steps and store as far as these tell groups of it apart."""
    settings = {(run.variant, *run.setting[1:]) for run in runs}
    per_variant = Counter(variant for variant, _, _ in settings)
    stores = {store for _, _, store in settings}

    def group(run: EvaluatedRun) -> str:
        _, steps, store = run.setting
        if per_variant[run.variant] == 1:
            return run.variant
        return f"{run.variant}, {steps:,.0f} steps" + (f", store {store[:8]}" if len(stores) > 1 else "")

    return [replace(run, group=group(run)) for run in runs]


def read_curves(folder: Path) -> dict[str, Curve]:
    """DVCLive's tables of `step` and value, by their path below `folder`."""
    curves = {}
    for path in sorted(folder.rglob("*.tsv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        step = header.split("\t").index("step")
        table = np.array([row.split("\t") for row in rows], dtype=np.float64).reshape(-1, 2)
        curves[path.relative_to(folder).with_suffix("").as_posix()] = Curve(table[:, step], table[:, 1 - step])
    return curves
