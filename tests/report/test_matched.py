"""Temporal variants beside per-token SAEs that are as sparse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.standard_error import half_width
from stages.report.contrast import comparisons
from stages.report.contrast_tables import matched_tables
from stages.report.evaluated_run import EvaluatedRun, read_runs
from stages.report.matched import Between, Matched, matched, references
from stages.report.verdict import at_equal_sparsity
from tests.report.samples import write_sample

VARIANT = {"explained_variance_centred": 0.71, "l0": 60.0, "ce_loss_score": 0.93, "autocorrelation": 0.206}
PLAIN = {"explained_variance_centred": 0.74, "l0": 58.0, "ce_loss_score": 0.94, "autocorrelation": 0.160}
L0 = st.floats(1, 1000)


def match(root: Path, runs: dict[str, dict[str, Any]]) -> list[Matched]:
    found = read_runs(*write_sample(root, runs))
    return matched(found, comparisons(found))


def says(root: Path, runs: dict[str, dict[str, Any]]) -> str:
    return at_equal_sparsity(match(root, runs)[0]).replace("\u00a0", " ")


def row(**objective: Any) -> dict[str, Any]:
    return {"sparsifier": {"kind": "relu"}, "objective": {"aux": 0.03125, **objective}}


def run_like(run: EvaluatedRun, **numbers: float) -> EvaluatedRun:
    return replace(run, summary={**run.summary, **numbers})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedRun:
    (run,) = read_runs(*write_sample(tmp_path_factory.mktemp("plain"), {"topk/seed0": PLAIN}))
    return run


def test_a_difference_and_its_error_are_those_of_the_two_runs(tmp_path: Path) -> None:
    (found,) = match(tmp_path, {"warmup/seed0": VARIANT, "topk/seed0": PLAIN})
    by_name = {d.metric.name: (contrast.control, d) for contrast, d in found.differences}
    control, ce = by_name["ce_loss_score"]
    assert (control, ce.mean, ce.error) == ("topk", pytest.approx(-0.01), pytest.approx(math.hypot(0.0021, 0.0021)))
    assert ce.half_width == pytest.approx(1.959964 * ce.error)
    assert ce.clear and not ce.improves
    assert by_name["tcs_short"][1].improves and by_name["smoothness"][1].improves  # lower is smoother
    assert not by_name["explained_variance_centred"][1].known
    assert "l0" not in by_name  # neither better nor worse
    assert {"lifetime_ratio", "probe_semantics_k5", "probe_context_k5"} < set(by_name)
    assert "probe_syntax_k5" not in by_name  # nobody measured it


def test_it_says_what_is_better_worse_and_equal(tmp_path: Path) -> None:
    text = says(tmp_path, {"warmup/seed0": VARIANT, "topk/seed0": PLAIN})
    assert text.startswith(
        "Against per-token SAEs at its L0 of 60.0 (topk; one seed), warmup is better in TCS short (+0.036 ± 0.002)"
    )
    assert "worse in CE score (\u22120.010 ± 0.003)" in text
    assert "apart, with no known error, in explained variance (\u22120.030)" in text
    assert "equal within error in" in text and "topic (last token) from 5 latents" in text


@pytest.mark.parametrize(("l0", "near"), [(54.1, True), (65.9, True), (53.9, False), (66.1, False)])
def test_10_percent_is_as_sparse(tmp_path: Path, l0: float, near: bool) -> None:
    (found,) = match(tmp_path, {"warmup/seed0": VARIANT, "topk/seed0": {**PLAIN, "l0": l0}})
    assert bool(found.contrasts) == near


def test_where_nothing_is_as_sparse_it_names_the_nearest_and_gives_no_number(tmp_path: Path) -> None:
    dense = {**VARIANT, "l0": 210.0}
    sparse, denser = {**PLAIN, "l0": 32.0}, {**PLAIN, "l0": 2000.0, "row": row(l1=0.01)}
    text = says(tmp_path, {"warmup/seed0": dense, "topk/seed0": sparse, "relu/seed0": denser})
    assert text == "For warmup there is no per-token SAE near its L0 of 210.0: the nearest is topk at 32.0."


@pytest.mark.parametrize("other", ["topk/seed1", "topk/seed0-89abcdef", "warmup+no-temporal/seed0", "warmup2/seed0"])
def test_another_seed_length_control_or_temporal_variant_is_no_match(tmp_path: Path, other: str) -> None:
    numbers = {**PLAIN, "steps_planned": 8000} if "-89" in other else PLAIN
    text = says(tmp_path, {"warmup/seed0": VARIANT, other: numbers})
    assert text == "No per-token SAE of its seed, steps and store was evaluated to compare warmup with."


@pytest.mark.parametrize(
    "part", [{"parts": {"gate": {"dim": 32, "bias": 2.0}}}, {"objective": {"contrast": {"weight": 1}}}]
)
def test_parts_that_need_order_and_contrastive_terms_are_temporal_too(tmp_path: Path, part: dict[str, Any]) -> None:
    (found,) = match(tmp_path, {"gated/seed0": {**VARIANT, "row": part}, "topk/seed0": PLAIN})
    assert [each.control for each in found.contrasts] == ["topk"]


def test_each_metric_has_the_per_token_sae_that_is_best_in_it(tmp_path: Path) -> None:
    runs = {
        "warmup/seed0": VARIANT,
        "steady/seed0": {**PLAIN, "autocorrelation": 0.3},
        "exact/seed0": {**PLAIN, "explained_variance_centred": 0.8},
    }
    (found,) = match(tmp_path, runs)
    best = {d.metric.name: contrast.control for contrast, d in found.differences}
    assert best["tcs_short"] == best["smoothness"] == "steady"  # in smoothness less is better
    assert best["explained_variance_centred"] == "exact"
    text = matched_tables([found])
    assert "steady, L0 58.0" in text and "exact, L0 58.0" in text and "95 % interval" in text


def test_between_two_runs_of_a_family_numbers_are_interpolated_in_the_logarithm_of_l0(tmp_path: Path) -> None:
    runs = {
        "warmup/seed0": VARIANT,
        "sparse/seed0": {**PLAIN, "l0": 30.0, "ce_loss_score": 0.90, "row": row(l1=0.08)},
        "dense/seed0": {**PLAIN, "l0": 120.0, "ce_loss_score": 0.98, "row": row(l1=0.02)},
    }
    (found,) = match(tmp_path, runs)
    (contrast,) = found.contrasts
    assert contrast.control == "between sparse and dense"
    ce = contrast.differences["ce_loss_score"]
    assert ce.control == pytest.approx(0.94)  # 60 is half way from 30 to 120
    error = math.hypot(0.0021 / 2, 0.0021 / 2)
    assert ce.error == pytest.approx(math.hypot(0.0021, error))
    assert contrast.differences["l0"].control == 60.0


@pytest.mark.parametrize("other", [{"sparsifier": {"kind": "jumprelu"}}, {"objective": {"aux": 0.5, "l1": 0.02}}])
def test_runs_that_differ_in_more_than_sparsity_are_no_family(tmp_path: Path, other: dict[str, Any]) -> None:
    runs = {
        "warmup/seed0": VARIANT,
        "sparse/seed0": {**PLAIN, "l0": 30.0, "row": row(l1=0.08)},
        "dense/seed0": {**PLAIN, "l0": 120.0, "row": {**row(l1=0.02), **other}},
    }
    assert not match(tmp_path, runs)[0].contrasts


def test_runs_of_one_variant_with_other_k_are_a_family_and_no_seeds_of_each_other(tmp_path: Path) -> None:
    runs = {
        "warmup/seed0": VARIANT,
        "topk/seed0": {**PLAIN, "l0": 32.0, "k": 32},
        "topk/seed0-k128": {**PLAIN, "l0": 128.0, "k": 128},
    }
    (found,) = match(tmp_path, runs)
    assert [each.control for each in found.contrasts] == ["between topk, k 32 and topk, k 128"]


def test_seeds_are_matched_one_by_one_and_the_interval_is_students(tmp_path: Path) -> None:
    gains = (0.03, 0.05, 0.04)
    runs: dict[str, dict[str, Any]] = {}
    for seed, gain in enumerate(gains):
        runs[f"warmup/seed{seed}"] = {**VARIANT, "explained_variance_centred": 0.74 + gain}
        runs[f"topk/seed{seed}"] = PLAIN
    (found,) = match(tmp_path, runs)
    (_, d) = next(pair for pair in found.differences if pair[1].metric.name == "explained_variance_centred")
    assert (d.n, d.mean, d.error) == (3, pytest.approx(0.04), pytest.approx(0.01 / math.sqrt(3)))
    assert d.half_width == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert d.clear


def test_a_run_that_never_fires_matches_nothing(tmp_path: Path) -> None:
    dead = {**VARIANT, "l0": 0.0}
    assert "No per-token SAE" in says(tmp_path / "a", {"warmup/seed0": dead, "topk/seed0": PLAIN})
    assert "No per-token SAE" in says(tmp_path / "b", {"warmup/seed0": VARIANT, "topk/seed0": {**PLAIN, "l0": 0.0}})


@given(low=L0, ratio=st.floats(1.01, 50), share=st.floats(0, 1), slope=st.floats(-5, 5), start=st.floats(-5, 5))
def test_interpolation_is_exact_where_a_metric_is_linear_in_the_logarithm(
    plain: EvaluatedRun, low: float, ratio: float, share: float, slope: float, start: float
) -> None:
    ends = [run_like(plain, l0=l0, x=start + slope * math.log(l0), x_se=0.3) for l0 in (low, low * ratio)]
    l0 = low * ratio**share
    between = Between(*ends, l0)
    assert between.number("x") == pytest.approx(start + slope * math.log(l0), abs=1e-9)
    assert 0.3 / math.sqrt(2) - 1e-9 <= between.number("x_se") <= 0.3 + 1e-9
    assert between.number("l0") == l0


@given(l0=L0, other=L0)
def test_a_match_is_within_10_percent(plain: EvaluatedRun, l0: float, other: float) -> None:
    found = references(run_like(plain, l0=l0), [run_like(plain, l0=other)])
    assert bool(found) == (abs(other / l0 - 1) <= 0.1)


def test_half_a_95_percent_interval() -> None:
    assert half_width(1.0) == pytest.approx(1.959964, abs=1e-6)
    assert half_width(1.0, 2) == pytest.approx(12.706205 / math.sqrt(2), rel=1e-6)  # Student's table
    assert half_width(1.0, 11) == pytest.approx(2.228139 / math.sqrt(11), rel=1e-6)
