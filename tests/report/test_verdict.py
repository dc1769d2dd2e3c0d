"""What the page says first: sentences about temporal variants and their controls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from stages.report.contrast import comparisons, difference
from stages.report.evaluated_run import read_runs
from stages.report.metric import METRICS
from stages.report.verdict import verdict
from tests.report.samples import write_sample

VARIANT = {"explained_variance_centred": 0.71, "l0": 60.0, "ce_loss_score": 0.93, "autocorrelation": 0.206}
CONTROL = {"explained_variance_centred": 0.733, "l0": 58.2, "ce_loss_score": 0.94, "autocorrelation": 0.160}
CE_SE = math.hypot(0.0021, 0.0021)


def says(root: Path, runs: dict[str, dict[str, Any]]) -> str:
    """All sentences, with plain spaces."""
    compared = comparisons(read_runs(*write_sample(root, runs)))
    return " ".join(part for one in compared for part in verdict(one)).replace("\u00a0", " ")


def test_bought_and_cost_are_named_with_their_errors_nulls_and_both_l0(tmp_path: Path) -> None:
    text = says(tmp_path, {"warmup/seed0": VARIANT, "warmup+no-temporal/seed0": CONTROL})
    assert text.startswith(
        "Over warmup+no-temporal (one seed), the temporal part of warmup bought TCS at short (+0.036"
    )
    assert "; inputs permuted +0.020)" in text
    assert "It cost 2.3 points of explained variance and 1.0 ± 0.3 points of CE score." in text
    assert "L0 is 60.0 against 58.2." in text
    assert "smoothness \u22120.0046 ± 0.0004 (inputs permuted \u22120.0025, lower is smoother)" in text
    assert "another training may differ by more" in text
    assert "order" not in text
    assert "spars" not in text


def test_a_difference_within_its_error_bought_nothing_and_cost_nothing(tmp_path: Path) -> None:
    same = {**CONTROL, "autocorrelation": 0.161, "ce_loss_score": 0.937}
    text = says(tmp_path, {"warmup/seed0": same, "warmup+no-temporal/seed0": CONTROL})
    assert "bought nothing within error at short (+0.001 ± 0.002" in text
    assert "bought TCS" not in text
    assert "It left unchanged within error: \u22120.3 ± 0.3 points of CE score" in text
    assert "it did not move explained variance." in text


def test_a_loss_of_consistency_and_a_gain_of_quality_are_called_so(tmp_path: Path) -> None:
    text = says(tmp_path, {"warmup/seed0": CONTROL, "warmup+no-temporal/seed0": VARIANT})
    assert "lowered TCS at short (\u22120.036 ± 0.002" in text
    assert "It gained 2.3 points of explained variance and 1.0 ± 0.3 points of CE score" in text


def test_where_permuted_order_gains_as_much_it_does_not_take_order(tmp_path: Path) -> None:
    permuted = {**VARIANT, "autocorrelation": 0.204}
    runs = {"warmup/seed0": VARIANT, "warmup+no-temporal/seed0": CONTROL, "warmup+permuted/seed0": permuted}
    text = says(tmp_path, runs)
    assert "warmup+permuted, trained in permuted order, gains as much, within error, at short (+0.035 ± 0.002" in text
    assert "it does not take order." in text
    assert "rest" not in text


def test_where_permuted_order_gains_less_the_rest_is_due_to_order(tmp_path: Path) -> None:
    permuted = {**VARIANT, "autocorrelation": 0.170}
    runs = {"warmup/seed0": VARIANT, "warmup+no-temporal/seed0": CONTROL, "warmup+permuted/seed0": permuted}
    text = says(tmp_path, runs)
    assert "gains less at short (+0.008 ± 0.002" in text
    assert "order accounts for the rest (+0.028 ± 0.002" in text
    assert "does not take order" not in text


def test_where_permuted_order_gains_more_order_takes_from_it(tmp_path: Path) -> None:
    permuted = {**VARIANT, "autocorrelation": 0.350}
    runs = {"warmup/seed0": VARIANT, "warmup+no-temporal/seed0": CONTROL, "warmup+permuted/seed0": permuted}
    text = says(tmp_path, runs)
    assert "gains more at short (+0.150 ± 0.002" in text
    assert "order takes from it (\u22120.114 ± 0.002" in text
    assert "within error, at" not in text and "accounts for" not in text


def test_where_the_permuted_control_can_be_told_from_neither_order_stays_open(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for seed, gain in enumerate((0.010, 0.0101, 0.0099)):
        runs[f"warmup/seed{seed}"] = {**CONTROL, "autocorrelation": 0.16 + gain}
        runs[f"warmup+no-temporal/seed{seed}"] = CONTROL
        runs[f"warmup+permuted/seed{seed}"] = {**CONTROL, "autocorrelation": 0.164 + (seed - 1) * 0.005}
    text = says(tmp_path, runs)
    assert "bought TCS at short" in text
    assert "can be told from neither at short" in text
    assert "what order is worth there is open" in text
    assert "does not take order" not in text


def test_without_a_control_it_says_which_command_makes_one(tmp_path: Path) -> None:
    text = says(tmp_path, {"warmup/seed0": VARIANT, "topk/seed0": {}})
    assert text.startswith("What the temporal part of warmup bought is not known")
    assert "`pipeline train --variant warmup+no-temporal --seed 0 --steps 4000` on its store" in text
    assert "bought TCS" not in text


def test_the_permuted_control_alone_tells_what_order_is_worth(tmp_path: Path) -> None:
    text = says(tmp_path, {"warmup/seed0": VARIANT, "warmup+permuted/seed0": CONTROL})
    assert "`pipeline train --variant warmup+no-temporal --seed 0 --steps 4000` on its store" in text
    assert "Over warmup+permuted (one seed), the token order in the training of warmup bought TCS at short" in text


@pytest.mark.parametrize("other", ["warmup+no-temporal/seed1", "warmup+no-temporal/seed0-89abcdef"])
def test_a_control_of_another_seed_or_length_is_no_control(tmp_path: Path, other: str) -> None:
    control = CONTROL if "seed1" in other else {**CONTROL, "steps_planned": 8000, "steps_done": 8000}
    assert "is not known" in says(tmp_path, {"warmup/seed0": VARIANT, other: control})


def test_several_seeds_are_compared_seed_by_seed(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    explained = [(0.71, 0.73), (0.72, 0.75), (0.70, 0.74)]
    for seed, (variant, control) in enumerate(explained):
        runs[f"warmup/seed{seed}"] = {**VARIANT, "explained_variance_centred": variant}
        runs[f"warmup+no-temporal/seed{seed}"] = {**CONTROL, "explained_variance_centred": control}
    runs["warmup+no-temporal/seed7"] = {**CONTROL, "explained_variance_centred": 0.1}
    text = says(tmp_path, runs)
    assert "one seed" not in text and "another training" not in text
    assert "Over warmup+no-temporal, seed by seed (n = 3), the temporal part of warmup bought TCS" in text
    assert "It cost 3.0 ± 0.6 points of explained variance" in text  # -2, -3, -4: standard deviation 1
    (comparison,) = comparisons(read_runs(tmp_path / "results", tmp_path / "runs"))
    assert comparison.bought is not None
    of = comparison.bought.differences["explained_variance_centred"]
    assert (of.n, of.mean, of.error) == (3, pytest.approx(-0.03), pytest.approx(0.01 / math.sqrt(3)))


def test_small_costs_are_said_with_the_digits_of_their_errors(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for seed, (loss, more) in enumerate(((0.00052, 9.6), (0.00055, 9.9), (0.00058, 9.7))):
        runs[f"warmup/seed{seed}"] = {**VARIANT, "explained_variance_centred": 0.733 - loss, "l0": 58.2 + more}
        runs[f"warmup+no-temporal/seed{seed}"] = CONTROL
    text = says(tmp_path, runs)
    assert "It cost 0.055 ± 0.002 points of explained variance" in text
    assert "L0 is 67.9 against 58.2 (+9.73 ± 0.09)." in text


def test_seeds_that_scatter_more_than_they_gain_bought_nothing(tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {}
    for seed, gain in enumerate((0.05, -0.04, 0.02)):
        runs[f"warmup/seed{seed}"] = {**VARIANT, "autocorrelation": 0.16 + gain}
        runs[f"warmup+no-temporal/seed{seed}"] = CONTROL
    text = says(tmp_path, runs)
    assert "bought nothing within error at short" in text
    assert "bought TCS" not in text


def test_one_seed_has_the_error_of_two_independent_measurements(tmp_path: Path) -> None:
    found = read_runs(*write_sample(tmp_path, {"warmup/seed0": VARIANT, "warmup+no-temporal/seed0": CONTROL}))
    by_name = {metric.name: metric for metric in METRICS}
    pair = [(found[1], found[0])]
    assert difference(pair, by_name["ce_loss_score"]).error == pytest.approx(CE_SE)
    assert math.isnan(difference(pair, by_name["l0"]).error)
    assert not difference(pair, by_name["l0"]).known


def test_denser_codes_and_gains_that_permuted_inputs_keep_are_pointed_out(tmp_path: Path) -> None:
    dense = {**VARIANT, "l0": 80.0, "tcs_short_inputs_permuted": 0.2}
    text = says(tmp_path, {"warmup/seed0": dense, "warmup+no-temporal/seed0": CONTROL})
    assert "not equally sparse" in text
    assert "More latents are active or more are dead" in text
    assert "At short lags the difference is no larger, within its error, than with the inputs permuted" in text


def test_sparser_codes_gain_in_spite_of_it(tmp_path: Path) -> None:
    text = says(tmp_path, {"warmup/seed0": {**VARIANT, "l0": 40.0}, "warmup+no-temporal/seed0": CONTROL})
    assert "not equally sparse" in text
    assert "More latents are active" not in text


def test_without_temporal_metrics_only_the_price_is_known(tmp_path: Path) -> None:
    old = {name: value for name, value in VARIANT.items() if name != "autocorrelation"}
    text = says(tmp_path, {"warmup/seed0": old, "warmup+no-temporal/seed0": CONTROL})
    assert "was not measured" in text
    assert "It cost 2.3 points of explained variance" in text


def test_without_temporal_variants_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert says(tmp_path, {"topk/seed0": {}, "baseline/seed0": {}}) == ""
