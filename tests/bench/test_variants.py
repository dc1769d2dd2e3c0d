"""A row of the table of all variants, and what importing it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import variants
from bench.rows import Job
from bench.variants import line, names
from stages.evaluate.versions import VERSIONS
from tests.forks import ENVIRONMENT

ROOT = Path(__file__).parents[2]
SUMMARY = {
    "steps_done": 7100,
    "steps_planned": 8000,
    "explained_variance_centred": 0.87654,
    "l0": 64.26,
    "l0_codes": 200.04,
    "dead_latents": 12.0,
    "ce_loss_score": 0.98765,
    "tcs_short": 0.12345,
    "tcs_short_inputs_permuted": 0.02,
    "tcs_short_codes_permuted": -0.01,
    "tcs_medium": 0.1,
    "tcs_medium_inputs_permuted": 0.05,
    "tcs_medium_codes_permuted": 0.0,
    "tcs_long": 0.5,
    "fsm_support": 0.25,
    "fsm_support_inputs_permuted": 0.125,
    "fsm_support_codes_permuted": 0.0625,
}
ROW: dict[str, Any] = {"seconds": 630, "stopped_by": "no smaller loss", "summary": SUMMARY}


def test_a_line_says_what_was_done_and_each_temporal_metric_beside_its_nulls() -> None:
    assert line("window3", ROW, []) == [
        "window3",
        "7,100 of 8,000",
        "no smaller loss",
        "10",
        "0.8765",
        "64.3",
        "200.0",
        "12",
        "0.9877",
        "- / -",
        "0.1235 / 0.0200 / -0.0100",
        "0.1000 / 0.0500 / 0.0000",
        "0.5000 / - / -",
        "0.2500 / 0.1250 / 0.0625",
    ]


def test_a_line_leaves_out_what_is_not_known() -> None:
    summary = {key: SUMMARY[key] for key in ("steps_done", "steps_planned", "l0")}
    found = line("topk", {"seconds": None, "stopped_by": None, "summary": {**summary, "l0_codes": None}}, [])
    assert found[:7] == ["topk", "7,100 of 8,000", "", "-", "-", "64.3", "-"]
    assert found[7:] == ["-", "-", "- / -", *["- / - / -"] * 4]


def test_a_line_stands_beside_the_per_token_row_at_its_l0() -> None:
    plan = dict.fromkeys(("device", "gpu", "products", "cpu", "torch"), "the same")

    def point(l0: float, explained: float, store: str = "one") -> dict[str, Any]:
        summary = {**SUMMARY, "l0": l0, "explained_variance_centred": explained}
        return {**ROW, "summary": summary, "plan": plan, "store_root": store}

    curve = [point(l0, explained) for l0, explained in ((50, 0.7), (200, 0.9), (12.5, 0.4))]
    assert line("window3", point(100, 0.83), curve)[9] == "+0.0300 / +0.0000"  # between 0.7 and 0.9, half way in log L0
    for row, points in ((point(300, 0.9), curve), (point(100, 0.9), curve[:2]), (point(100, 0.9, "two"), curve)):
        assert line("window3", row, points)[9] == "- / -"


def test_a_line_of_a_row_that_is_missing_or_was_ended() -> None:
    assert line("topk", {}, []) == ["topk", "not run"]
    ended = "Training topk collapsed at step 99: a token activates 0.1 latents.\n  expected: more"
    assert line("topk", {"ended": ended}, []) == ["topk", ended.splitlines()[0]]


def test_the_table_has_a_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"topk": {**ROW, "variant": "topk"}, "paper": {"variant": "paper", "ended": "Collapsed.\nwhy"}}
    monkeypatch.setattr(Job, "read", lambda job: rows.get(job.variant, {}))
    text, _, rest = variants.table().partition("\n\n")
    head, _, *lines = text.splitlines()
    assert [each.split(" | ")[0].removeprefix("| ") for each in lines] == names()
    assert len(names()) == 28 and not any("+" in name for name in names())
    assert "| topk | 7,100 of 8,000 | no smaller loss | 10 |" in "\n".join(lines)
    assert "| paper | Collapsed. |" in lines and "| tfa | not run |" in lines
    assert head.count("|") == next(each for each in lines if "| topk" in each).count("|")
    assert rest.splitlines()[0].endswith(": paper"), "of the rows that are there, what is not as it should be"


@pytest.mark.parametrize(
    ("explained", "l0", "well"),
    [(0.51, 5, True), (0.5, 64, False), (0.9, 300, True), (0.9, 300.1, False), (0.9, 4.9, False), (None, 64, False)],
)
def test_a_row_should_explain_half_of_the_variance_with_5_to_300_latents(
    explained: float | None, l0: float, well: bool
) -> None:
    assert variants.meets({"summary": {"explained_variance_centred": explained, "l0": l0}}) == well
    assert not variants.meets({"ended": "Collapsed."})


def test_rows_are_read_from_their_files_while_their_recipe_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.rows.ROWS", tmp_path)
    monkeypatch.setattr("bench.rows.fingerprint", lambda config, store, layer: f"{config.variant.name} {store} {layer}")
    row = {"store_fingerprint": "s", "layer": 11, "recipe": "topk s 11", "metrics_versions": VERSIONS, **ROW}
    job = Job("topk", 0, 16)
    assert job.path == tmp_path / "topk-sparsity16-seed0.json" and job.read() == {}
    for changed, kept in (({}, True), ({"recipe": "topk t 11"}, False), ({"metrics_versions": {"core": -1}}, False)):
        job.path.write_text(json.dumps({**row, **changed}))
        assert bool(job.read()) == kept
    assert Job("topk", 0, 16).config.k == 16 and Job("baseline", 0, 0.08).config.variant.objective.l1 == 0.08


@pytest.mark.slow
def test_tables_need_no_saelens() -> None:
    code = "import sys; sys.modules['sae_lens'] = None; import bench.matched, bench.variants"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, check=True)
