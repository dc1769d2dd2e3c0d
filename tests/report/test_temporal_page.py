"""The page of runs with temporal metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.console import LineProgress
from stages.report.cells import breakable
from stages.report.evaluated_run import read_runs
from stages.report.report import report
from stages.report.scatter import Box, _room
from stages.report.tables import seeds_table
from stages.report.temporal_tables import MAIN, lags, temporal_table
from tests.report.samples import write_sample
from tests.report.test_report import References
from tests.report.test_verdict import CONTROL, VARIANT

RUNS: dict[str, dict[str, Any]] = {
    "topk/seed0": {},
    "warmup/seed0": VARIANT,
    "warmup+no-temporal/seed0": CONTROL,
    "warmup+permuted/seed0": CONTROL,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("temporal")
    return report(*write_sample(root, RUNS), root / "report")


def test_it_answers_the_question_first_then_shows_the_figure_then_the_runs(page: Path) -> None:
    text = page.read_text()
    parts = (
        "Over warmup+no-temporal (one seed), the temporal part of warmup bought TCS",
        "topk explains 85.0",
        "<h2>What the temporal parts bought and cost",
        "Variant minus control, with errors",
        "warmup and its controls in numbers",
        "<h2>Runs",
        "<h2>Temporal metrics",
        "<h2>Training",
    )
    at = [text.index(part) for part in parts]
    assert at == sorted(at)
    parser = References()
    parser.feed(text)
    assert not parser.open
    assert not re.search(r"\$[a-z]|\bnan\b|None", text)


def test_every_temporal_figure_is_there(page: Path) -> None:
    made = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert {"difference_shares", "difference_relative", "autocorrelation"} < made
    assert {f"tcs_{scale}_against_explained_variance" for scale in ("short", "medium", "long")} < made
    assert {"temporal_warmup_seed0", "temporal_warmup+permuted_seed0"} < made
    assert "temporal_warmup+no-temporal_seed0" not in made
    alt = re.search(r'alt="(Loss of warmup by term[^"]*)"', page.read_text())
    assert alt is not None
    for term in ("temporal short", "buffer long", "reconstruction", "total"):
        assert term in alt.group(1)


def test_values_stand_beside_their_nulls(page: Path) -> None:
    text = page.read_text()
    summary = json.loads((page.parent.parent / "results/warmup/seed0/summary.json").read_text())
    value, null = summary["tcs_short"], summary["tcs_short_inputs_permuted"]
    assert text.count(f"{value:.4f}<small>null {null:.4f}</small>") == 2  # in the contrast and in the runs
    for name in ("tcs_short", "tcs_short_codes_permuted", "tcs_short_untrained", "tcs_short_activations"):
        assert f"<small>{summary[name]:.4f}</small>" in text
    assert '<td data-label="TCS short"><span class="value">—</span></td>' in text  # topk was not measured


def test_equal_inputs_give_equal_bytes(page: Path) -> None:
    before = {path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    report(page.parent.parent / "results", page.parent.parent / "runs", page.parent)
    assert {path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()} == before


def test_numbers_that_do_not_exist_break_nothing(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("explained_variance_centred", "l0", "ce_loss_score", "latents", "dead_latents"))
    results, runs = write_sample(tmp_path, {"warmup+no-temporal/seed0": CONTROL, "warmup/seed0": VARIANT})
    for path in results.rglob("summary.json"):
        summary = dict.fromkeys(json.loads(path.read_text()), float("nan")) | nothing
        path.write_text(json.dumps(summary))
    for path in results.rglob("temporal.json"):
        temporal = json.loads(path.read_text())
        for name, measure in temporal["measures"].items():
            temporal["measures"][name] = {key: None for key in measure} if name != "codes" else None
        temporal["scales"]["long"]["used"] = []
        path.write_text(json.dumps(temporal))
    text = report(results, runs, tmp_path / "report").read_text()
    assert "too few" in text
    assert not re.search(r"[> ]nan\b", text)


def test_scales_without_enough_pairs_are_named(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"warmup/seed0": {**VARIANT, "tcs_long": None}})
    path = results / "warmup/seed0/temporal.json"
    temporal = json.loads(path.read_text())
    temporal["scales"]["long"]["used"] = []
    temporal["scales"]["medium"]["used"] = [5, 6, 8]
    temporal["measures"]["codes"]["tcs"]["long"] = None
    path.write_text(json.dumps(temporal))
    found = read_runs(results, runs)
    text = lags(found)
    assert "1 to 4" in text
    assert "5 to 6, 8" in text
    assert ">too few<" in text
    assert "127: too few (" in text
    assert f"1: {temporal['pairs'][0]:,}" in text
    assert "<small>too few</small>" in temporal_table(found, MAIN)


def test_several_seeds_have_a_row_of_means_above_the_single_runs(tmp_path: Path) -> None:
    runs = {
        "topk/seed0": {"explained_variance_centred": 0.84},
        "topk/seed1": {"explained_variance_centred": 0.86, "ce_loss_score": None},
        "baseline/seed0": {},
    }
    found = read_runs(*write_sample(tmp_path, runs))
    assert [run.group for run in found] == ["baseline", "topk", "topk"]
    text = seeds_table(found)
    assert "0.8500<small>± 0.0141</small>" in text
    assert "(n = 1)" in text
    assert text.count("<tr><th") == 3
    assert seeds_table(found[:2]) == ""


def test_runs_of_different_length_are_not_seeds_of_each_other(tmp_path: Path) -> None:
    longer = {"steps_planned": 8000, "steps_done": 8000}
    found = read_runs(*write_sample(tmp_path, {"topk/seed0": {}, "topk/seed0-89abcdef": longer}))
    assert [run.group for run in found] == ["topk, 4,000 steps", "topk, 8,000 steps"]


def test_results_of_an_older_version_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, runs = write_sample(tmp_path, {"warmup/seed0": VARIANT, "warmup/seed1": VARIANT})
    path = results / "warmup/seed0/temporal.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "another"}))
    assert [run.name for run in read_runs(results, runs, LineProgress())] == ["warmup/seed1"]
    said = capsys.readouterr().err
    assert str(path.parent) in said and "delete this folder" in said


def test_labels_of_near_points_do_not_meet() -> None:
    taken: list[Box] = []
    for _ in range(8):
        taken.append(_room("warmup2000+no-temporal", (150, 80), taken, (300, 160)))
    assert all(box.inside((300, 160)) for box in taken)
    assert not any(a.meets(b) for i, a in enumerate(taken) for b in taken[:i])


def test_names_break_between_their_parts_only() -> None:
    parts = re.findall(r'<span class="part">(.*?)</span>', breakable("a-b+no-temporal/seed0"))
    assert parts == ["a-b", "+no-temporal/", "seed0"]
