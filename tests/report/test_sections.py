"""Sections of the page, without its figures: equal sparsity, patterns, probes, claims, terms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from stages.evaluate.unlearned import read_rmu
from stages.report.contrast import comparisons
from stages.report.evaluated_run import read_runs
from stages.report.page import make_page
from stages.report.pattern_figures import patterns
from stages.report.probing_figures import probes
from stages.report.unlearning import Line, comparable
from stages.report.unlearning_figures import unlearning
from tests.report.sample_measures import DIGEST
from tests.report.samples import write_sample, write_unlearning
from tests.report.test_report import References
from tests.report.test_verdict import CONTROL, VARIANT

FIGURES = ("contrast", "matched", "comparison", "temporal", "patterns", "probing", "unlearning", "training", "loss")
NEW = ("At equal sparsity", "What few latents tell", "How long latents stay active", "What was reported")
RUNS: dict[str, dict[str, Any]] = {
    "topk/seed0": {"autocorrelation": 0.15, "l0": 58.0, "row": {"reported": "0 steps & <nothing>"}},
    "warmup/seed0": VARIANT,
    "warmup+no-temporal/seed0": {**CONTROL, "row": {"reported": "not of a control"}},
}


def page_of(results: Path, runs: Path) -> str:
    found = read_runs(results, runs)
    unlearned = comparable(found, read_rmu(results))
    text = make_page(found, comparisons(found), unlearned, {section: [] for section in FIGURES})
    parser = References()
    parser.feed(text)
    assert not parser.open and not parser.scripts and not parser.found
    return text


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(*write_sample(tmp_path_factory.mktemp("sections"), RUNS))


def section(page: str, title: str) -> str:
    """From its heading to the next of the same rank."""
    head, _, rest = page.partition(f">{title}")
    assert rest, title
    return rest.partition(head[head.rindex("<h") :][:3])[0]


def test_a_verdict_at_equal_sparsity_stands_above_and_its_table_below(page: str) -> None:
    sentence = "Against per-token SAEs at its L0 of 60.0 (topk; one seed), warmup is better in"
    assert page.index(sentence) < page.index("What the temporal parts bought and cost")
    table = section(page, "At equal sparsity")
    assert sentence in table
    assert "<small>better</small>" in table and "<small>no error known</small>" in table
    assert "topk, L0 58.0" in table
    assert "\u22120.0458 to \u22120.0342" in table  # CE score: 0.93 - 0.97 and 1.96 times the error of two runs


def test_of_many_temporal_variants_all_but_result_and_caution_is_folded(tmp_path: Path) -> None:
    pairs = {f"warmup{i}": {**VARIANT, "l0": 70.0} for i in range(3)}
    pairs |= {f"{name}+no-temporal": CONTROL for name in pairs}
    runs = {f"{name}/seed0": numbers for name, numbers in pairs.items()}
    page = page_of(*write_sample(tmp_path, runs))
    finding = page.partition('<div class="finding">')[2].partition("</div>")[0]
    assert finding.count("<details>") == finding.count("per-token SAEs, and in other metrics</summary>") == 3
    for folded in finding.split("<details>")[1:]:
        assert "minus" in folded.partition("</details>")[0]
    shown = "".join(part.rpartition("</details>")[2] for part in finding.split("<details>"))
    assert shown.count("The two are not equally sparse") == 3 and shown.count('class="lead"') == 3


def test_many_variants_are_told_by_their_range(tmp_path: Path) -> None:
    numbers = {f"row{i}/seed0": {"explained_variance_centred": 0.5 + i / 20, "l0": 10.0 + i} for i in range(8)}
    page = page_of(*write_sample(tmp_path, numbers)).replace("\u00a0", " ")
    assert "7 others explain 50.0 % to 80.0 % with 10.0 to 16.0 active latents and keep 97.0 % to 97.0 %." in page


def test_patterns_stand_beside_their_nulls_references_and_gains(page: str) -> None:
    lifetimes = section(page, "How long latents stay active")
    assert '<th scope="col">Lifetime against chance</th>' in lifetimes
    # Of warmup: 1 + 0.206, and shares of 0.206 in the nulls, as in the sample.
    expected = [1.206, 1 + 0.55 * 0.206, 1.103, 1 + 0.9 * 0.206]
    error = "\u00a0±\u00a00.0030"
    cell = "".join(f"<small>{value:.4f}{'' if i else error}</small>" for i, value in enumerate(expected))
    assert f"{cell}<small>—</small><small>+0.0103</small>" in lifetimes  # 0.45 - 0.4 of 0.206; no activations
    transitions = section(page, "What ends of sentences and documents do").partition("<details>")[0]
    assert "raw activations" not in transitions  # they have no firings
    assert "206,000" in transitions


def test_probes_stand_beside_an_untrained_sae_and_a_question_that_was_not_asked_says_why(page: str) -> None:
    probing = section(page, "What few latents tell")
    assert "0.731 ± 0.030<small>untrained 0.425</small>" in probing  # 0.5 + 0.206 + 0.005 * 5
    assert ">0.900<" in probing and ">0.220<" in probing
    assert "243 examples of 2 classes in 243 documents" in probing
    assert "The word. Not asked: spaCy is not there." in probing


def test_claims_of_sources_stand_beside_what_came_out(page: str) -> None:
    claims = section(page, "What was reported")
    assert "0 steps &amp; &lt;nothing&gt;<small>Gao et al. 2024" in claims
    assert "4,000 of 4,000" in claims and "0.8500" in claims and "58.0" in claims
    assert "not of a control" not in claims and "warmup" not in claims


def test_what_a_source_reported_of_the_language_model_stands_beside_ours(tmp_path: Path) -> None:
    said = "explained variance -0.785, L0 0, CE loss 18.0, KL score -0.528, CE score -0.572"
    ours = {"ce_loss_with_sae": 3.1416, "ce_loss_score": 0.91, "kl_div_score": 0.83, "row": {"reported": said}}
    other = {"ce_loss_with_sae": 3.2, "row": {"reported": "0 steps"}}
    page = page_of(*write_sample(tmp_path, {"topk/seed0": ours, "wide/seed0": other}))
    claims = section(page, "What was reported")
    for label, numbers in {
        "CE loss here": ("3.1416", "3.2000"),
        "CE score here": ("0.9100", "0.9700"),
        "KL score here": ("0.8300", "0.9610"),
    }.items():
        assert f'<th scope="col">{label}</th>' in claims
        for number in numbers:
            assert f'<td data-label="{label}"><span class="value">{number}</span></td>' in claims
    without = page_of(*write_sample(tmp_path / "other", {"topk/seed0": other}))
    assert not any(words in section(without, "What was reported") for words in ("CE loss", "CE score", "KL score"))


def test_terms_are_the_catalogue_with_families_in_one_entry(page: str) -> None:
    terms = section(page, "How to read the numbers")
    assert "<dt>TCS short, TCS medium, TCS long</dt>" in terms
    for title in ("Explained variance", "Lifetime against chance", "Inputs permuted", "Gain", "Most frequent class"):
        assert terms.count(f"<dt>{title}</dt>") == 1


def test_an_older_evaluation_has_no_such_sections_and_is_a_page(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"topk/seed0": {"autocorrelation": 0.15}, "warmup/seed0": VARIANT})
    for path in results.rglob("temporal.json"):
        temporal = json.loads(path.read_text())
        for measure in temporal["measures"].values():
            del measure["patterns"]
        path.write_text(json.dumps({**temporal, "version": 1}))
        (path.parent / "probing.json").unlink()
    text = page_of(results, runs)
    assert [title for title in NEW if title in text] == ["At equal sparsity"]
    assert "<dt>TCS short" in text and "<dt>Lifetime" not in text and "<dt>Most frequent class" not in text
    found = read_runs(results, runs)
    assert not patterns(found) and not probes(found)


def test_a_page_of_per_token_saes_compares_nothing_with_controls(tmp_path: Path) -> None:
    text = page_of(*write_sample(tmp_path, {"topk/seed0": {}}))
    assert not any(title in text for title in NEW)


def test_variants_without_controls_share_a_sentence(tmp_path: Path) -> None:
    text = page_of(*write_sample(tmp_path, {"warmup/seed0": VARIANT, "warmup2/seed0": VARIANT}))
    assert "What the temporal parts of warmup and warmup2 bought is not known" in text
    assert "<code>pipeline train --variant NAME+no-temporal</code>" in text


def test_figures_of_patterns_and_probes(tmp_path: Path) -> None:
    found = read_runs(*write_sample(tmp_path, {"topk/seed0": {"autocorrelation": 0.15}}))
    assert [picture.name for picture in patterns(found)] == ["lifetimes", "turnover"]
    names = [picture.name for picture in probes(found)]
    assert names == ["probe_semantics", "probe_semantics_mean", "probe_context"]  # syntax was not asked


def test_what_was_forgotten_stands_beside_its_price_and_rmu(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"topk/seed0": {}, "wide/seed0": {}})
    assert "What the language model forgets" not in page_of(results, runs)
    write_unlearning(results / "topk/seed0/unlearning.json", DIGEST)
    write_unlearning(results / "wide/seed0/unlearning.json", DIGEST)
    write_unlearning(results / "wide/seed0/unlearning-12345678.json", DIGEST, "another")
    write_unlearning(results / "rmu/layer11/unlearning.json", None)
    forgets = section(page_of(results, runs), "What the language model forgets")
    assert "knows 27 of 40 questions on it and 294 of 440 others" in forgets
    own, other = forgets.split("To be forgotten: Cells &amp; &lt;life&gt;")[1:]
    assert own.count("topk") == own.count("wide") == 2 and own.count("RMU") == 1
    assert other.count("wide") == 2 and "topk" not in other and "RMU" not in other
    assert (
        own.count("Tried were 10 and 20 latents that fire on less than 0.001 and 0.01 of other text, clamped to") == 1
    )
    per_token, trailing = (own.split("</tr>")[i] for i in (1, 2))
    for number in ("1 token", ">0.100<", ">0.900<small>± 0.060<", ">0.500<", "+0.020", "+0.400"):
        assert number in per_token
    assert trailing.count("no setting") == 2 and "8 tokens" in trailing and "+0.100" in trailing


def test_rmu_of_two_layers_is_named_by_them(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"topk/seed0": {}})
    for layer in (5, 11):
        write_unlearning(results / f"rmu/layer{layer}/unlearning.json", None)
    forgets = section(page_of(results, runs), "What the language model forgets")
    assert "RMU, layer5" in forgets and "RMU, layer11" in forgets


def test_every_setting_of_an_unlearning_is_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, runs = write_sample(tmp_path, {"topk/seed0": {}})
    write_unlearning(results / "topk/seed0/unlearning.json", DIGEST)
    write_unlearning(results / "rmu/layer11/unlearning.json", None)
    found = comparable(read_runs(results, runs), read_rmu(results))
    drawn: list[tuple[str, list[float]]] = []

    def noting(axes: Axes, line: Line, x: list[float], y: list[float]) -> None:
        drawn.append((line.label, [*x, *y]))

    monkeypatch.setattr("stages.report.unlearning_figures._points", noting)
    pictures = unlearning(found)
    assert [picture.name.rpartition("_")[2] for picture in pictures] == ["answers", "losses"]
    assert drawn[0] == ("topk", [0.995, 0.96, 0.9, 0.5]) and drawn[2] == ("RMU", [1.0, 0.8])
    assert drawn[3][1] == pytest.approx([0.005, 0.02, 0.02, 0.4]) and len(drawn) == 6


def test_runs_of_two_layers_have_references_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"topk/seed0{last}" for last in ("", "-L5")]
    results, runs = write_sample(tmp_path, {name: {"autocorrelation": 0.2} for name in names})
    path = results / names[1] / "core.json"
    core = json.loads(path.read_text())
    core["eval_result_unstructured"]["training"]["layer"] = 5
    path.write_text(json.dumps(core))
    found = read_runs(results, runs)
    labels: list[str] = []
    plain = Axes.axhline

    def noting(axes: Axes, y: float, **look: Any) -> Any:
        labels.append(look.get("label", ""))
        return plain(axes, y, **look)

    monkeypatch.setattr(Axes, "axhline", noting)
    probes(found)
    assert {label for label in labels if "dimensions" in label} == {
        f"all dimensions of the activations, layer {layer} of store 01234567" for layer in (None, 5)
    }
    page = page_of(results, runs)
    assert section(page, "What few latents tell").count("Layer 5 of store 01234567: 243 examples") == 3


def test_evaluations_of_other_batches_are_told_apart(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {f"{name}/seed0": {} for name in "abc"})
    assert "<h3>Evaluation</h3>" in page_of(results, runs)
    path = results / "c/seed0/core.json"
    core = json.loads(path.read_text())
    core["eval_config"]["batch_size_prompts"] = 8
    path.write_text(json.dumps(core))
    page = page_of(results, runs)
    assert "<h3>Evaluation of a, b</h3>" in page and "of 8 rows" in page.partition("<h3>Evaluation of c</h3>")[2]


def test_where_no_latent_has_a_lifetime_there_is_no_figure_of_them(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"topk/seed0": {"autocorrelation": 0.2}})
    path = results / "topk/seed0/temporal.json"
    temporal = json.loads(path.read_text())
    for measure in temporal["measures"].values():
        if measure["patterns"]["lifetime"]:
            measure["patterns"]["lifetime"]["deciles"] = []
    path.write_text(json.dumps(temporal))
    assert [picture.name for picture in patterns(read_runs(results, runs))] == ["turnover"]
