"""Errors of differences: of replicates on the same documents, of seeds, or of two independent numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.report.contrast import Difference, comparisons, difference
from stages.report.contrast_tables import contrast_tables
from stages.report.evaluated_run import read_runs
from stages.report.matched import matched
from stages.report.metric import METRICS
from stages.report.verdict import verdict
from tests.report.samples import keep_replicates, write_sample
from tests.report.test_matched import PLAIN, VARIANT, row

BY_NAME = {metric.name: metric for metric in METRICS}
RUNS: dict[str, dict[str, Any]] = {"warmup/seed0": VARIANT, "warmup+no-temporal/seed0": PLAIN}
DRAWS = np.random.default_rng(0)
SHARED, OWN = 0.002 * DRAWS.standard_normal(200), 0.0001 * DRAWS.standard_normal(200)


def of(root: Path, metric: str) -> Difference:
    """Of the variant and its control below a folder."""
    first, second = sorted(read_runs(root / "results", root / "runs"), key=lambda run: "+" in run.variant)
    return difference([(first, second)], BY_NAME[metric])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_sample(tmp_path, RUNS)
    keep_replicates(tmp_path / "results/warmup/seed0", {"ce_loss_score": 0.93 + SHARED + OWN})
    keep_replicates(tmp_path / "results/warmup+no-temporal/seed0", {"ce_loss_score": 0.94 + SHARED})
    return tmp_path


def test_on_the_same_documents_it_is_that_of_the_paired_replicates(root: Path) -> None:
    found = of(root, "ce_loss_score")
    assert found.error == pytest.approx(OWN.std(ddof=1))
    assert found.half_width == pytest.approx(1.971957 * found.error, rel=1e-6)
    assert found.error < math.hypot(0.0021, 0.0021) / 20  # as if the runs were independent
    [comparison] = comparisons(read_runs(root / "results", root / "runs"))
    assert "\u22120.0100\u00a0±\u00a00.0001<" in contrast_tables([comparison])
    assert "and 1.00 ± 0.01 points of CE score" in verdict(comparison)[0].replace("\u00a0", " ")


def test_other_spellings_of_a_dtype_and_other_taggers_are_the_same_documents(root: Path) -> None:
    folder = root / "results/warmup+no-temporal/seed0"
    replicates = {"ce_loss_score": 0.94 + SHARED}
    keep_replicates(folder, replicates, decided={"model_dtype": "torch.bfloat16", "tagger": "another"})
    for name in ("temporal.json", "probing.json"):
        (folder / name).unlink()
    assert of(root, "ce_loss_score").error == pytest.approx(OWN.std(ddof=1))


def test_of_two_controls_that_of_the_same_numbers_is_compared(tmp_path: Path) -> None:
    def with_rate(lr: float, score: float) -> dict[str, Any]:
        row = {"optimizer": {"lr": lr}, "objective": {"l1": 0.04}}
        return {"autocorrelation": 0.16, "explained_variance_centred": score, "row": row}

    controls = {f"warmup+no-temporal/seed0-{i}{'0' * 7}": with_rate(lr, 0.7 + lr) for i, lr in enumerate((0.1, 0.01))}
    write_sample(tmp_path, {"warmup/seed0": with_rate(0.1, 0.75), **controls})
    [comparison] = comparisons(read_runs(tmp_path / "results", tmp_path / "runs"))
    assert comparison.bought is not None
    assert comparison.bought.differences["explained_variance_centred"].control == pytest.approx(0.8)


def test_as_many_digits_as_the_error_needs_to_be_seen(root: Path) -> None:
    found = of(root, "ce_loss_score")
    errors = {0.0: 4, math.nan: 4, 0.02: 4, 0.00031: 4, 0.00003: 5, 1e-17: 6}
    assert {error: replace(found, of_documents=error).digits for error in errors} == errors


def test_runs_of_equal_codes_differ_by_exactly_nothing(root: Path) -> None:
    for name in RUNS:
        keep_replicates(root / "results" / name, {"ce_loss_score": 0.93 + SHARED})
        path = root / "results" / name / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ce_loss_score": 0.93}))
    found = of(root, "ce_loss_score")
    assert (found.mean, found.error, found.known, found.clear) == (0, 0, True, False)


@pytest.mark.parametrize("why", ["other documents", "another version", "no replicates", "other groups"])
def test_otherwise_the_runs_are_as_if_independent(root: Path, why: str) -> None:
    folder = root / "results/warmup+no-temporal/seed0"
    if why == "other documents":
        keep_replicates(folder, {"ce_loss_score": 0.94 + SHARED}, decided={"config": "another"})
        for name in ("temporal.json", "probing.json"):
            (folder / name).unlink()
    elif why == "no replicates":
        keep_replicates(folder, {})
    elif why == "other groups":
        keep_replicates(folder, {"ce_loss_score": 0.94 + SHARED[:9]})
    else:
        core = json.loads((folder / "core.json").read_text())
        core["eval_result_unstructured"]["fingerprint"] = "of an older version"
        (folder / "core.json").write_text(json.dumps(core))
    found = of(root, "ce_loss_score")
    assert found.error == pytest.approx(math.hypot(0.0021, 0.0021))
    assert found.degrees == (8 if why == "other groups" else 199)  # the fewer of the two


def test_a_tenth_of_the_documents_left_out_in_turn_has_nine_degrees_of_freedom(root: Path) -> None:
    for i, name in enumerate(RUNS):
        keep_replicates(root / "results" / name, {"lifetime_ratio": 1.2 + SHARED[:10] + i * OWN[:10]})
    found = of(root, "lifetime_ratio")
    assert found.error == pytest.approx(OWN[:10].std(ddof=1))
    assert found.half_width == pytest.approx(2.262157 * found.error, rel=1e-6)


def test_over_seeds_the_error_of_the_documents_stays(tmp_path: Path) -> None:
    """Two seeds of equal gains, and two whose gains are 0.010 and 0.014, all on the same documents."""
    other = 0.0001 * np.random.default_rng(1).standard_normal(200)
    for i, gains in enumerate(((0.010, 0.010), (0.010, 0.014))):
        runs = {f"warmup/seed{seed}": {**VARIANT, "ce_loss_score": 0.94 - gain} for seed, gain in enumerate(gains)}
        runs |= {f"warmup+no-temporal/seed{seed}": PLAIN for seed in (0, 1)}
        results, logs = write_sample(tmp_path / str(i), runs)
        for name, numbers in runs.items():
            own = {"warmup/seed0": OWN, "warmup/seed1": other}.get(name, 0)
            keep_replicates(results / name, {"ce_loss_score": numbers["ce_loss_score"] + SHARED + own})
        [comparison] = comparisons(read_runs(results, logs))
        assert comparison.bought is not None
        found = comparison.bought.differences["ce_loss_score"]
        of_documents, spread = np.std((OWN + other) / 2, ddof=1), np.std(gains, ddof=1)
        assert (found.n, found.spread) == (2, pytest.approx(spread, abs=1e-12))
        assert found.error == pytest.approx(math.hypot(spread / math.sqrt(2), of_documents))
        half = math.hypot(12.706205 * spread / math.sqrt(2), 1.971957 * of_documents)
        assert found.half_width == pytest.approx(half, rel=1e-6)


def test_seeds_that_are_not_of_the_same_documents_have_the_mean_of_their_errors(root: Path) -> None:
    keep_replicates(root / "results/warmup+no-temporal/seed0", {})
    first, second = sorted(read_runs(root / "results", root / "runs"), key=lambda run: "+" in run.variant)
    found = difference([(first, second)] * 3, BY_NAME["ce_loss_score"])
    assert (found.spread, found.error) == (0, pytest.approx(math.hypot(0.0021, 0.0021)))


def test_what_is_interpolated_is_paired_too(tmp_path: Path) -> None:
    runs = {
        "warmup/seed0": VARIANT,
        "sparse/seed0": {**PLAIN, "l0": 30.0, "row": row(l1=0.08)},
        "dense/seed0": {**PLAIN, "l0": 120.0, "row": row(l1=0.02)},
    }
    results, logs = write_sample(tmp_path, runs)
    for name in runs:
        keep_replicates(results / name, {"ce_loss_score": 0.93 + SHARED + OWN * (name == "dense/seed0")})
    found = read_runs(results, logs)
    [each] = matched(found, comparisons(found))
    ce = each.contrasts[0].differences["ce_loss_score"]
    assert ce.error == pytest.approx(OWN.std(ddof=1) / 2)  # 60 is half way from 30 to 120
