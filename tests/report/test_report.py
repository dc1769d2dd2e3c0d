"""The page from files to files."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stages.report.drawing import WIDE, legend_below, panel
from stages.report.evaluated_run import read_curves, read_runs
from stages.report.finding import finding
from stages.report.palette import colours
from stages.report.report import report
from store.problem import Problem
from tests.report.samples import write_sample

BASELINE = {"explained_variance_centred": 0.684, "l0": 71.3, "ce_loss_score": 0.921}


class References(HTMLParser):
    """Collects what a page would load or link to, and checks that its tags close."""

    VOID = ("meta", "img", "br", "wbr", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    results, runs = write_sample(root, {"baseline/seed0": BASELINE, "topk/seed0": {}})
    return report(results, runs, root / "report")


def test_the_page_refers_to_nothing_outside_itself(page: Path) -> None:
    text = page.read_text()
    parser = References()
    parser.feed(text)
    assert not parser.open
    assert not parser.scripts
    assert parser.found
    assert all(reference.startswith("data:image/svg+xml;base64,") for reference in parser.found)
    assert not re.search(r"url\(|@import", text)
    for reference in parser.found:
        svg = base64.b64decode(reference.split(",")[1]).decode()
        assert not re.search(r'(href|src)="(?!#)', svg)  # an SVG refers only to its own parts


def test_every_figure_is_there_as_png_too(page: Path) -> None:
    figures = sorted((page.parent / "figures").glob("*.png"))
    assert len(figures) == page.read_text().count("<img") == 8
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)


def test_it_says_first_what_was_found_then_shows_the_runs(page: Path) -> None:
    text = page.read_text()
    at = [text.index(part) for part in ("topk explains 85.0", "<h2>Runs", "<h2>Training", "<h2>What was run")]
    assert at == sorted(at)
    assert text.count('<th scope="row"><span class="swatch"') == 2
    for number in ("0.8500", "0.6840", "71.3", "± 0.0021", "4,000 of 4,000", "CC BY-SA 4.0", "Gemma Terms"):
        assert number in text
    assert "&lt;arXiv" in text  # what comes from files is escaped


def test_equal_inputs_give_equal_bytes_and_old_figures_go(page: Path) -> None:
    before = {path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    (page.parent / "figures" / "loss_gone_seed0.png").write_bytes(b"")
    page.write_text(page.read_text() + '<figure id="loss_gone_seed0"></figure>')
    root = page.parent.parent
    report(root / "results", root / "runs", page.parent)
    assert {path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()} == before


def test_a_report_without_training_logs_is_a_report(tmp_path: Path) -> None:
    results, _ = write_sample(tmp_path, {"topk/seed0": {}})
    page = report(results, tmp_path / "nowhere", tmp_path / "report")
    assert page.read_text().count("<img") == 2


def test_nothing_evaluated_or_a_torn_result_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="nothing to report on"):
        report(tmp_path, tmp_path, tmp_path / "report")
    results, runs = write_sample(tmp_path, {"topk/seed0": {}})
    (results / "topk/seed0/summary.json").write_text("{")
    with pytest.raises(Problem, match="cannot be read"):
        report(results, runs, tmp_path / "report")


def test_seeds_are_named_only_where_they_differ(tmp_path: Path) -> None:
    one = write_sample(tmp_path / "one", {"topk/seed0": {}, "baseline/seed0": {}})
    assert [run.label for run in read_runs(*one)] == ["baseline", "topk"]
    two = write_sample(tmp_path / "two", {"topk/seed0": {}, "topk/seed1": {}})
    assert [run.label for run in read_runs(*two)] == ["topk/seed0", "topk/seed1"]


def test_two_trainings_of_one_seed_are_no_two_seeds(tmp_path: Path) -> None:
    names = ["topk/seed0-aaaaaaaa", "topk/seed0-bbbbbbbb", "topk/seed1-cccccccc", "baseline/seed0-dddddddd"]
    runs = read_runs(*write_sample(tmp_path, {name: {} for name in names}))
    assert [run.group for run in runs] == ["baseline", *(name.replace("/", ", ") for name in names[:3])]


def test_seeds_of_other_rows_are_no_seeds_of_one_variant(tmp_path: Path) -> None:
    """Of three, the second was trained after its row had another weight, the third after it had another source."""
    weights = ({"weight": 1.0}, {"weight": 0.1}, {"weight": 1.0})
    rows = [{"objective": {"temporal": {"scales": [each]}}} for each in weights]
    rows[2]["source"] = "said otherwise"
    runs = read_runs(*write_sample(tmp_path, {f"warmup/seed{i}": {"row": row} for i, row in enumerate(rows)}))
    assert runs[0].group == runs[2].group != runs[1].group
    assert runs[0].group.startswith("warmup, row ")


def test_as_many_groups_as_there_are_variants_have_colours_of_their_own(tmp_path: Path) -> None:
    runs = read_runs(*write_sample(tmp_path, {f"row{i:02}/seed0": {} for i in range(30)}))
    assert len(set(colours(runs).values())) == 30


def test_figures_of_many_runs_take_the_width_of_the_page(tmp_path: Path) -> None:
    few = write_sample(tmp_path / "few", {f"row{i}/seed{seed}": {} for i in range(6) for seed in range(3)})
    many = write_sample(tmp_path / "many", {f"row{i}/seed0": {"autocorrelation": 0.2} for i in range(13)})
    pages = [report(*sample, tmp_path / "report" / str(i)).read_text() for i, sample in enumerate((few, many))]
    assert 'class="wide"' not in pages[0]
    wide = set(re.findall('<figure id="([^"]+)" class="wide">', pages[1]))
    assert {"ce_loss_score_against_l0", "autocorrelation", "turnover", "probe_context"} < wide
    assert not any(name.startswith("loss") for name in wide)


def test_many_names_do_not_make_a_high_figure_lower() -> None:
    with panel("title", "x", "y", height=20) as (figure, axes):
        for i in range(30):
            axes.plot([], [], label=str(i))
        legend_below(figure, axes, columns=2)
    assert figure.get_figwidth() == WIDE[0] and figure.get_figheight() > 20


def test_levels_are_shown_and_a_silent_one_is_called_collapsed(tmp_path: Path) -> None:
    numbers = {"l0": 1.5, "alive": 0.9, "explained_variance_centred": 0.6, "smoothness": 0.1}
    first = {f"level0_{name}": value for name, value in numbers.items()}
    second = {f"level1_{name}": value for name, value in {**numbers, "l0": 0.5}.items()}
    results, runs = write_sample(tmp_path, {"t-sae/seed0": {**first, **second}, "topk/seed0": {}})
    page = report(results, runs, tmp_path / "report").read_text()
    levels = page.partition("<h3>Levels</h3>")[2].partition("</table>")[0]
    lively, silent = levels.partition("level 1")[2].split("level 2")
    assert "collapsed" in silent and "collapsed" not in lively and "0.1000" in lively
    assert "topk" not in levels


def test_curves_are_what_dvclive_wrote(tmp_path: Path) -> None:
    from dvclive import Live

    with Live(str(tmp_path / "live"), save_dvc_exp=False, dvcyaml=None) as live:
        for step, value in [(0, 2.0), (10, 1.5)]:
            live.step = step
            live.log_metric("loss/total", value, timestamp=False)
            live.make_summary()
    curve = read_curves(tmp_path / "live" / "plots" / "metrics")["loss/total"]
    assert curve.step.tolist() == [0, 10]
    assert curve.value.tolist() == [2.0, 1.5]


@pytest.mark.parametrize(
    ("runs", "says", "not_says"),
    [
        ({"a/seed0": {"l0": 30}, "b/seed0": {"l0": 90, "explained_variance_centred": 0.9}}, "does not rank", "dead"),
        ({"a/seed0": {"l0": 90}, "b/seed0": {"l0": 30, "explained_variance_centred": 0.9}}, "b explains", "rank"),
        ({"a/seed0": {"l0": 30}, "a/seed1": {"l0": 32}}, "a (2 seeds) explains 85.0\u00a0% of", "seed1"),
        ({"a/seed0": {"l0": 0, "explained_variance_centred": -0.78}}, "a is dead", "stopped"),
        ({"a/seed0": {"steps_done": 4}}, "a stopped after 4 of 4,000 steps", "dead"),
        ({"a/seed0": {"explained_variance_centred": None}, "b/seed0": {}}, "a explains no number", "stopped"),
    ],
)
def test_the_finding(tmp_path: Path, runs: dict, says: str, not_says: str) -> None:
    text = " ".join(finding(read_runs(*write_sample(tmp_path, runs))))
    assert says in text
    assert not_says not in text


def test_the_finding_names_the_layer_of_an_sae_that_names_no_hook_point(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"a/seed0": {}})
    path = results / "a/seed0/core.json"
    core = json.loads(path.read_text())
    core["sae_cfg_dict"]["metadata"] = None
    core["eval_result_unstructured"]["training"]["layer"] = 7
    path.write_text(json.dumps(core))
    assert " at layer 7, a explains" in finding(read_runs(results, runs))[0]


def test_numbers_that_do_not_exist_are_shown_as_such(tmp_path: Path) -> None:
    results, runs = write_sample(tmp_path, {"topk/seed0": {"ce_loss_score": None, "ce_loss_score_se": None}})
    summary = json.loads((results / "topk/seed0/summary.json").read_text())
    assert summary["ce_loss_score"] is None
    text = report(results, runs, tmp_path / "report").read_text()
    assert '<td data-label="CE score"><span class="value">—</span></td>' in text
