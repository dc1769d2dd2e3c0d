"""Differences at equal L0, by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from bench.matched import (
    ENDED,
    FAMILIES,
    HIGH_LEVEL,
    HIGH_LEVEL_L0,
    NOT_RUN,
    OUTSIDE,
    SILENT,
    Family,
    difference,
    shares_along,
    table,
)
from bench.rows import Job
from bench.shift import Shift, cell
from stages.report.metric import METRICS

FAMILY = Family(("own",), "plain", (0.02, 0.08))
OWN, CONTROL = ("own", 0, None), ("own+no-temporal", 0, None)
CURVE = [("plain", 0, None), ("plain", 0, 0.02), ("plain", 0, 0.08)]
PLAN = {"device": "cpu", "products": "float32", "cpu": "x86", "torch": "2"}
Key = tuple[str, int, float | None]
Rows = dict[Key, dict[str, Any]]


def row(ev: float | None, l0: float, **more: Any) -> dict[str, Any]:
    return {"plan": PLAN, "store_root": "root", "summary": {"ev": ev, "l0": l0}, **more}


def five() -> Rows:
    """The variant at L0 64, its control at 32; the curve gives 0.6 at 64 and 0.4 at 32, half-way from 16 to 64."""
    curve = [row(0.6, 64), row(0.8, 256), row(0.2, 16)]
    return {OWN: row(0.9, 64), CONTROL: row(0.5, 32), **dict(zip(CURVE, curve, strict=True))}


def found(rows: Rows, monkeypatch: pytest.MonkeyPatch, metric: str = "ev", axis: str = "l0") -> float | str:
    monkeypatch.setattr(Job, "read", lambda job: rows.get((job.variant, job.seed, job.sparsity), {}))
    shift = difference("own", FAMILY, 0, metric, axis)
    return shift if isinstance(shift, str) else shift.value


def test_along_a_curve_metrics_are_linear_in_the_logarithm_of_l0() -> None:
    curve, scores = (64, 256, 16), np.array([0.6, 0.8, 0.2])
    at = {l0: shares_along(curve, l0) @ scores for l0 in (16, 32, 64, 128, 181.0193359837562, 256)}
    assert list(at.values()) == pytest.approx([0.2, 0.4, 0.6, 0.7, 0.75, 0.8])
    assert np.isnan(shares_along(curve, 15.9)).all() and np.isnan(shares_along(curve, 257)).all()


def test_the_control_is_moved_along_the_curve_to_the_l0_of_the_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(five(), monkeypatch) == pytest.approx(0.9 - (0.5 + (0.6 - 0.4)))


def test_at_equal_l0_nothing_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found({**five(), CONTROL: row(0.5, 64)}, monkeypatch) == pytest.approx(0.4)


def test_the_difference_in_l0_itself_is_that_before_it_was_made_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(five(), monkeypatch, "l0") == 32
    assert found({**five(), OWN: row(0.9, 1000)}, monkeypatch, "l0") == 968, "outside the curve, too"


def test_the_axis_may_be_the_l0_of_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = five()
    for each, l0 in zip(rows.values(), (4, 2, 2, 8, 1), strict=True):
        each["summary"] = {"ev": each["summary"]["ev"], "l0": 64, HIGH_LEVEL_L0: l0}
    # The curve: 0.2 at 1, 0.6 at 2, 0.8 at 8, and 0.7 at 4.
    assert found(rows, monkeypatch, axis=HIGH_LEVEL_L0) == pytest.approx(0.4 - (0.7 - 0.6))
    assert found(rows, monkeypatch, HIGH_LEVEL_L0, HIGH_LEVEL_L0) == 2


@pytest.mark.parametrize("key", [OWN, CONTROL])
def test_a_level_that_has_collapsed_has_no_difference(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level of less than one latent a token, or of which less than a fifth is alive."""
    rows = five()
    for each in rows.values():
        each["summary"] |= {HIGH_LEVEL_L0: 4.0, "level0_alive": 0.5}
    assert found(rows, monkeypatch, axis=HIGH_LEVEL_L0) == pytest.approx(0.4)
    for name, value in ((HIGH_LEVEL_L0, 0.9), ("level0_alive", 0.1)):
        collapsed = {**rows[key], "summary": {**rows[key]["summary"], name: value}}
        assert found({**rows, key: collapsed}, monkeypatch, axis=HIGH_LEVEL_L0) == SILENT


@pytest.mark.parametrize("missing", [OWN, CONTROL, *CURVE])
def test_without_one_of_the_rows_there_is_no_difference(missing: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = five()
    assert found({key: each for key, each in rows.items() if key != missing}, monkeypatch) == NOT_RUN
    ended = {"plan": PLAN, "store_root": "root", "ended": "Training own collapsed.\nexpected: more"}
    assert found({**rows, missing: ended}, monkeypatch) == ENDED
    assert found({**rows, missing: row(None, 64)}, monkeypatch) == NOT_RUN
    assert found({**rows, missing: row(0.5, 0.0)}, monkeypatch) == SILENT
    assert found({**rows, missing: row(0.5, 64, store_root="another")}, monkeypatch) == NOT_RUN
    assert found({**rows, missing: row(0.5, 64, plan={**PLAN, "products": "bfloat16"})}, monkeypatch) == NOT_RUN


@pytest.mark.parametrize("key", [OWN, CONTROL])
@pytest.mark.parametrize("l0", [15.0, 257.0])
def test_outside_the_curve_there_is_no_difference(key: Key, l0: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found({**five(), key: row(0.9, l0)}, monkeypatch) == OUTSIDE


@pytest.mark.parametrize(
    ("differences", "digits", "text"),
    [
        # Student's t over three seeds is 4.302653, over two 12.706205; the deviations are 1, 0.1 and 0.141421.
        ([1.0, 2.0, 3.0], 2, "+2.00 ± 2.48"),
        ([0.9, 1.0, 1.1], 3, "**+1.000 ± 0.248**"),
        ([-1.1, -1.0, -0.9], 1, "**-1.0 ± 0.2**"),
        ([1.0, 1.2, NOT_RUN], 1, "+1.1 ± 1.3 (1 not run)"),
        ([0.9, OUTSIDE, 1.0, 1.1, SILENT, OUTSIDE], 3, "**+1.000 ± 0.248** (2 outside the curve, 1 silent)"),
        ([1.0, NOT_RUN, ENDED], 2, "1 not run, 1 ended by a guard"),
        ([NOT_RUN] * 3, 2, "3 not run"),
    ],
)
def test_a_cell_is_the_mean_over_seeds_and_its_interval(differences: list[float | str], digits: int, text: str) -> None:
    shifts = [each if isinstance(each, str) else Shift(each, np.empty(0), math.nan) for each in differences]
    assert cell(shifts, digits) == text


def test_a_cell_has_what_the_documents_do_to_all_seeds() -> None:
    """Replicates whose mean over seeds has the standard deviation 1, or an error of 1 each, beside a spread of 0.1."""
    draws = np.random.default_rng(0).standard_normal(200)
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    opposite = np.tile([1.0, -1.0], 100)
    values = (9.9, 10.0, 10.1)
    over_seeds = 4.302653 * 0.1 / math.sqrt(3)
    paired = [Shift(value, draws + sign * opposite, 5.0) for value, sign in zip(values, (1, -1, 0), strict=True)]
    assert cell(paired, 3) == f"**+10.000 ± {math.hypot(over_seeds, 1.971957):.3f}**"
    alone = [Shift(value, np.empty(0), 1.0) for value in values]
    assert cell(alone, 3) == f"**+10.000 ± {math.hypot(over_seeds, 1.959964):.3f}**"


def test_replicates_are_moved_along_the_curve_as_the_number_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = five()
    draws = np.random.default_rng(0).standard_normal((5, 200))
    for each, own in zip(rows.values(), draws, strict=True):
        each["replicates"] = {"ev": (each["summary"]["ev"] + own).tolist()}
    monkeypatch.setattr(Job, "read", lambda job: rows.get((job.variant, job.seed, job.sparsity), {}))
    shift = difference("own", FAMILY, 0, "ev")
    assert isinstance(shift, Shift)
    half_way = draws[2] - (draws[2] + draws[4]) / 2  # the points at 64 and at 16
    assert shift.replicates == pytest.approx(shift.value + draws[0] - draws[1] - half_way)


def test_without_replicates_rows_are_as_if_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = five()
    for each, error in zip(rows.values(), (0.3, 0.4, 0.2, 9.0, 0.2), strict=True):
        each["summary"]["ev_se"] = error
    monkeypatch.setattr(Job, "read", lambda job: rows.get((job.variant, job.seed, job.sparsity), {}))
    shift = difference("own", FAMILY, 0, "ev")
    assert isinstance(shift, Shift) and not len(shift.replicates)
    assert shift.error == pytest.approx(math.sqrt(0.3**2 + 0.4**2 + 0.1**2 + 0.1**2))


def test_a_family_needs_pairs_of_every_seed_and_one_curve() -> None:
    jobs = FAMILY.jobs
    assert len(jobs) == len(set(jobs)) == 3 * 2 + 3
    assert {(job.variant, job.seed, job.sparsity) for job in jobs if job.seed == 0} == {OWN, CONTROL, *CURVE}


def test_other_seeds_use_the_same_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = five()
    rows |= {(name, 1, None): rows[name, 0, None] for name in ("own", "own+no-temporal")}
    monkeypatch.setattr(Job, "read", lambda job: rows.get((job.variant, job.seed, job.sparsity), {}))
    shift = difference("own", FAMILY, 1, "ev")
    assert isinstance(shift, Shift) and shift.value == pytest.approx(0.9 - (0.5 + (0.6 - 0.4)))


def test_without_any_row_the_table_says_so_in_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "read", lambda job: {})
    lines = table().splitlines()
    variants = [variant for family in FAMILIES for variant in family.variants]
    assert lines[0] == "| metric | " + " | ".join(variants) + " |"
    found = Counter(tuple(line.removesuffix(" |").split(" | ")[1:]) for line in lines if "3 not run" in line)
    assert found == {("3 not run",) * len(variants): len(METRICS), ("3 not run",): len(HIGH_LEVEL)}
