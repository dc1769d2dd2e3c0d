"""The table of all evaluations, from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.console import LineProgress
from stages.evaluate.catalogue import CATALOGUE, PROBED, REFERENCES, of_level, of_probe
from stages.evaluate.comparison import compare
from stages.evaluate.definition import Definition
from tests.report.sample_measures import DIGEST
from tests.report.samples import keep_replicates, write_sample, write_unlearning

RUNS: dict[str, dict[str, Any]] = {
    "topk/seed0": {"autocorrelation": 0.15},
    "topk/seed1": {"autocorrelation": 0.16},
    "old/seed0": {},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = write_sample(tmp_path_factory.mktemp("comparison"), RUNS)
    compare(folder)
    return folder


@pytest.fixture
def table(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "comparison.parquet")


def row(table: pd.DataFrame, metric: str) -> pd.Series:
    return table[table.run == "topk/seed0"].set_index("metric").loc[metric]


def test_a_row_is_a_variant_a_seed_and_a_metric(table: pd.DataFrame) -> None:
    assert not table.duplicated(["run", "metric"]).any()
    assert set(zip(table.variant, table.seed, strict=True)) == {("topk", 0), ("topk", 1), ("old", 0)}
    assert table.value.notna().all() and table.definition.str.len().min() > 20
    assert set(table.better) == {"higher", "lower", "neither"}


def test_a_value_stands_beside_its_nulls_references_and_gain(table: pd.DataFrame, results: Path) -> None:
    summary = json.loads((results / "topk/seed0/summary.json").read_text())
    measures = json.loads((results / "topk/seed0/temporal.json").read_text())["measures"]
    found = row(table, "tcs_short")
    assert found.value == summary["tcs_short"]
    assert found.null_inputs_permuted == summary["tcs_short_inputs_permuted"]
    assert found.null_codes_permuted == summary["tcs_short_codes_permuted"]
    assert (found.untrained, found.activations) == (summary["tcs_short_untrained"], summary["tcs_short_activations"])
    order = found.value - found.null_inputs_permuted
    assert found.gain == order - (found.untrained - measures["untrained_inputs_permuted"]["tcs"]["short"])
    assert pd.isna(row(table, "lift_edges").gain) and pd.isna(row(table, "fsm_support").activations)
    assert pd.isna(found.majority)


def test_intervals_hold_95_percent(table: pd.DataFrame) -> None:
    found = row(table, "ce_loss_score")
    assert (found.low, found.high) == pytest.approx((0.97 - 1.959964 * 0.0021, 0.97 + 1.959964 * 0.0021), abs=1e-8)
    probe = row(table, "probe_context_k20")  # the bootstrap's, which need not be symmetric
    assert (probe.value - probe.low, probe.high - probe.value) == pytest.approx((0.05, 0.06))
    assert (probe.untrained, probe.activations, probe.majority) == pytest.approx((0.5, 0.9, 0.22))
    assert pd.isna(row(table, "l0").low)


def test_intervals_know_how_many_replicates_an_error_comes_from(tmp_path: Path) -> None:
    errors = {"l0_se": 0.2, "lifetime_ratio_se": 0.003, "tcs_short_gain_se": 0.01}
    results, _ = write_sample(tmp_path, {"topk/seed0": {"autocorrelation": 0.2, **errors}})
    keep_replicates(results / "topk/seed0", {"l0": np.arange(200.0), "lifetime_ratio": np.arange(10.0)})
    table = compare(results).set_index("metric")
    assert table.high["l0"] - table.value["l0"] == pytest.approx(1.971957 * 0.2, rel=1e-6)
    assert table.high["lifetime_ratio"] - table.value["lifetime_ratio"] == pytest.approx(2.262157 * 0.003, rel=1e-6)
    assert table.gain_standard_error["tcs_short"] == 0.01
    assert pd.isna(table.gain_standard_error["l0"])


def test_the_three_files_hold_one_table(table: pd.DataFrame, results: Path) -> None:
    csv = pd.read_csv(results / "comparison.csv", dtype={"unit": str}).astype(table.dtypes)
    pd.testing.assert_frame_equal(csv, table, check_exact=True)
    entries = json.loads((results / "comparison.json").read_text())
    assert [set(entry) for entry in entries] == [set(table.columns)] * len(table)
    assert [entry["value"] for entry in entries] == table.value.tolist()
    assert set(REFERENCES) < set(table.columns)


def test_equal_evaluations_give_equal_bytes_and_nothing_is_left_behind(results: Path) -> None:
    before = {path.name: path.read_bytes() for path in results.iterdir() if path.is_file()}
    assert set(before) == {"comparison.parquet", "comparison.csv", "comparison.json"}
    compare(results)
    assert {path.name: path.read_bytes() for path in results.iterdir() if path.is_file()} == before


def test_an_older_evaluation_has_the_rows_that_it_has(table: pd.DataFrame) -> None:
    old = set(table[table.run == "old/seed0"].metric)
    assert {"explained_variance_centred", "ce_loss_score", "l0"} < old
    assert not any(name.startswith(("tcs", "probe", "lifetime")) for name in old)
    assert "cossim" not in old  # a number that does not exist has no row


def test_levels_have_rows_of_their_own(tmp_path: Path) -> None:
    level = {"l0": 9.5, "alive": 0.9, "explained_variance_centred": 0.6, "smoothness": 0.1}
    numbers = {f"level0_{name}": value for name, value in level.items()}
    results, _ = write_sample(tmp_path, {"t-sae/seed0": {**numbers, "autocorrelation": 0.2}})
    path = results / "t-sae/seed0/temporal.json"
    temporal = json.loads(path.read_text())
    temporal["measures"]["codes"]["level_smoothness"] = [0.1]
    path.write_text(json.dumps(temporal))
    table = compare(results).set_index("metric")
    assert {name: table.value[f"level0_{name}"] for name in level} == level
    assert table.title["level0_alive"] == "Level 1: Alive"


def test_files_of_two_evaluations_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = {"topk/seed0": {"autocorrelation": 0.2}, "topk/seed1": {"autocorrelation": 0.2}}
    results, _ = write_sample(tmp_path, two)
    path = results / "topk/seed0/probing.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "another"}))
    assert set(compare(results, LineProgress()).run) == {"topk/seed1"}
    assert "core.json and probing.json are of two evaluations" in capsys.readouterr().err
    (results / "topk/seed1/core.json").unlink()
    assert compare(results).run.nunique() == 0


def test_names_are_unique_and_definitions_are_sentences() -> None:
    made = [*of_level(0), *(of_probe(task, k) for task in PROBED for k in (1, 5))]
    definitions: list[Definition] = [*CATALOGUE.values(), *made]
    assert len({each.name for each in definitions}) == len(definitions)
    for each in definitions:
        assert each.title and each.unit and each.better in (-1, 0, 1)
        assert each.text[0].isupper() or each.text[0].isdigit()
        assert each.text.endswith(".")


def test_scores_of_unlearning_have_rows_and_rmu_has_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, _ = write_sample(tmp_path, {"topk/seed0": {}, "topk/seed1": {}})
    write_unlearning(results / "topk/seed0/unlearning.json", DIGEST)
    write_unlearning(results / "topk/seed0/unlearning-12345678.json", DIGEST, "another")
    write_unlearning(results / "topk/seed1/unlearning.json", "an SAE of before")
    write_unlearning(results / "rmu/layer11/unlearning.json", None)
    write_unlearning(results / "alone/seed0/unlearning.json", DIGEST)
    found = compare(results, LineProgress())
    scores = found[found.metric.str.startswith("unlearning")].set_index(["run", "metric"])
    other = next(name for _, name in scores.index if "window" not in name and name != "unlearning_score")
    assert scores.value.to_dict() == {
        ("topk/seed0", "unlearning_score"): pytest.approx(0.1),
        ("topk/seed0", "unlearning_score_window8"): 0.0,
        ("topk/seed0", other): pytest.approx(0.1),
        ("topk/seed0", f"{other}_window8"): 0.0,
        ("rmu/layer11", "unlearning_score"): pytest.approx(0.2),
    }
    assert len(found[found.variant == "rmu"]) == 1
    assert scores.low.isna().all() and scores.definition.str.contains("To be forgotten: Cells & <life>.").all()
    said = capsys.readouterr().err
    assert "seed1/unlearning.json: its SAE is not the one that was evaluated" in said
    assert "alone/seed0: unlearned, but not evaluated" in said and said.count("left out") == 2


def test_scores_of_two_tasks_of_the_profile_have_two_names(tmp_path: Path) -> None:
    """As where a setting of the sweep changed between them."""
    results, _ = write_sample(tmp_path, {"topk/seed0": {}, "topk/seed1": {}})
    write_unlearning(results / "topk/seed0/unlearning.json", DIGEST)
    write_unlearning(results / "topk/seed1/unlearning.json", DIGEST, "another")
    write_unlearning(results / "rmu/layer11/unlearning.json", None)
    write_unlearning(results / "rmu-12345678/layer5/unlearning.json", None, "of another store")
    found = compare(results)
    scores = found[found.metric.str.match(r"unlearning_score_[0-9a-f]{8}$")].set_index("run").metric
    assert set(scores.index) == {"topk/seed0", "topk/seed1", "rmu/layer11", "rmu-12345678/layer5"}
    assert scores["topk/seed0"] == scores["rmu/layer11"] and scores.nunique() == 3


def test_an_unlearning_of_an_older_version_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, _ = write_sample(tmp_path, {"topk/seed0": {}})
    path = results / "topk/seed0/unlearning.json"
    write_unlearning(path, DIGEST)
    document = json.loads(path.read_text())
    del document["eval_result_unstructured"]["decided"]
    for content in (json.dumps(document), "[]", "{", json.dumps({**document, "eval_result_unstructured": 1})):
        path.write_text(content)
        assert not compare(results, LineProgress()).metric.str.startswith("unlearning").any()
        assert "This unlearning cannot be read, or is of an older version." in capsys.readouterr().err
