from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.params import read_params
from stages.sae.table import load_variants
from stages.sae.variant import Variant
from stages.sweep.cells import cells_of, with_numbers
from stages.sweep.outcome import Outcome, collapse_in
from stages.sweep.table import find_sweep, load_sweeps
from stages.train.config import TrainSizes
from stages.train.guards import Collapse
from stages.train.plan import SCHEDULED_SHARE
from stages.train.schedule import ends_of_schedules
from store.problem import Problem
from tests.project import VARIANTS

ROOT = Path(__file__).parents[2]
SIZES = TrainSizes(d_sae=48, k=4, batch_rows=4, steps=7)
WINDOW = "objective.temporal.scales.0"
SWEEP: dict[str, Any] = {
    "asks": "a test",
    "steps": 40,
    "seed": 3,
    "grids": [
        {
            "variants": ["slow", "slow+no-temporal"],
            "axes": {
                "window": {"replaces": f"{WINDOW}.lags", "values": {2: [1, 1], "all": [1, 15]}},
                "d_sae": {"replaces": "train.d_sae", "values": [32, 64]},
            },
        },
        {"variants": ["topk"]},
    ],
}


@pytest.fixture
def rows(tmp_path: Path) -> dict:
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(VARIANTS))
    return load_variants(tmp_path / "variants.yaml")


@cache
def table() -> dict[str, Variant]:
    """The project's own variants."""
    return load_variants(ROOT / "variants.yaml")


def sweep_of(folder: Path, content: Any) -> Any:
    (folder / "sweeps.yaml").write_text(yaml.safe_dump({"grid": content}, sort_keys=False))
    return find_sweep(load_sweeps(folder / "sweeps.yaml"), "grid")


def test_a_cell_is_a_variant_with_its_axes_replaced_and_nothing_else(tmp_path: Path, rows: dict) -> None:
    cells = {cell.name: cell.config for cell in cells_of(sweep_of(tmp_path, SWEEP), rows, SIZES)}
    pairs = [(variant, window) for variant in ("slow", "slow+no-temporal") for window in (2, "all")]
    names = [f"{variant},window={window},d_sae={d_sae}" for variant, window in pairs for d_sae in (32, 64)]
    assert list(cells) == [*names, "topk"]
    assert cells["topk"].variant == rows["topk"]
    for name, config in cells.items():
        assert (config.steps, config.seed, config.k, config.batch_rows) == (40, 3, 4, 4)
        assert config.d_sae == (48 if name == "topk" else int(name.rpartition("=")[2]))
    one = cells["slow,window=all,d_sae=64"].variant
    assert one.objective.temporal.scales[0].lags == (1, 15)
    assert one.numbers != rows["slow"].numbers
    back, _ = with_numbers(one, SIZES, {f"{WINDOW}.lags": [1, 4]})
    assert back == rows["slow"]
    control = cells["slow+no-temporal,window=all,d_sae=64"].variant
    assert control.control == "no-temporal"
    assert (control.objective.temporal.scales[0].lags, control.objective.temporal.scales[0].weight) == ((1, 15), 0)


@given(
    weight=st.floats(0, 1e6),
    lr=st.floats(1e-9, 1.0),
    lags=st.tuples(st.integers(1, 50), st.integers(50, 99)),
    k=st.integers(1, 99),
)
def test_numbers_land_where_their_paths_lead(weight: float, lr: float, lags: tuple[int, int], k: int) -> None:
    paths = {f"{WINDOW}.weight": weight, f"{WINDOW}.lags": list(lags), "optimizer.lr": lr, "train.k": k}
    row, sizes = with_numbers(table()["warmup2000"], SIZES, paths)
    first, *others = row.objective.temporal.scales
    assert (first.weight, first.lags, row.optimizer.lr, sizes.k) == (weight, lags, lr, k)
    assert tuple(others) == table()["warmup2000"].objective.temporal.scales[1:]


def test_the_projects_own_sweeps_can_be_trained() -> None:
    sweeps = load_sweeps(ROOT / "sweeps.yaml")
    profiles = read_params(ROOT).profiles
    assert {"windows", "scales", "dictionary", "sparsity"} <= set(sweeps)
    for sweep in sweeps.values():
        for profile in profiles.values():
            cells = list(cells_of(sweep, table(), profile.train))
            assert len({cell.name for cell in cells}) == len(cells)
            for config in (cell.config for cell in cells):
                ends = ends_of_schedules(config.variant, config.steps)
                assert max(ends.values()) <= SCHEDULED_SHARE * config.steps


def test_the_windows_are_those_that_002_asked_for() -> None:
    cells = list(cells_of(load_sweeps(ROOT / "sweeps.yaml")["windows"], table(), read_params(ROOT).profile.train))
    found = {
        (cell.config.variant.objective.temporal.scales[0].lags[1] + 1, scale.weight)
        for cell in cells
        for scale in cell.config.variant.objective.temporal.scales
    }
    assert found - {(3, 0)} == {(size, weight) for size in (2, 3, 5, 9, 17) for weight in (0.001, 0.01, 0.1, 1)}
    assert all((cell.config.steps, cell.config.seed) == (2000, 0) for cell in cells)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["colour"], "red", "unknown key 'colour'.*keys asks, steps, seed, grids"),
        (["grids", 0, "axes", "window", "value"], 1, "unknown key 'value'.*keys replaces, values"),
        (["grids", 0, "axis"], {}, "unknown key 'axis'.*keys variants, axes"),
        (["steps"], "many", "impossible value for 'steps'.*integer"),
        (["steps"], 0, "impossible value for 'steps'.*greater than or equal to 1"),
        (["grids", 0, "axes", "window", "values"], [], "impossible value.*at least 1"),
        (["grids", 0, "axes", "a/b"], {"replaces": "train.k", "values": [1]}, "impossible value.*only letters"),
        (["grids", 0, "axes", "d_sae", "values"], [[32]], "impossible value.*dictionary"),
        (["grids", 0, "axes", "d_sae", "values"], {"../up": 32}, "impossible value.*only letters"),
    ],
)
def test_a_table_with_a_mistake_is_refused_by_name(tmp_path: Path, place: list, value: Any, message: str) -> None:
    content = deepcopy(SWEEP)
    *parents, last = place
    here = content
    for key in parents:
        here = here[key]
    here[last] = value
    with pytest.raises(Problem, match=f"(?s){message}") as caught:
        sweep_of(tmp_path, content)
    assert caught.value.exit_status == 2 and "sweeps.yaml" in str(caught.value.where)


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="cannot be read"):
        load_sweeps(tmp_path / "sweeps.yaml")
    for text, message in (
        ("a: [", "not YAML"),
        ("- a", "impossible value"),
        ("{a: {steps: 5}}", "lacks the key 'asks'"),
    ):
        (tmp_path / "sweeps.yaml").write_text(text)
        with pytest.raises(Problem, match=message):
            load_sweeps(tmp_path / "sweeps.yaml")


@pytest.mark.parametrize(
    ("replaces", "values", "message"),
    [
        ("objective.temporl.delay", [5], "no 'temporl'.*one of l1, l1_warmup"),
        (f"{WINDOW}.lags.2", [5], "no '2'.*one of 0, 1"),
        ("objective.contrast.weight", [5], "no 'weight'.*it is None"),
        ("name", ["other"], "no 'name'.*one of sparsifier"),
        ("train.colour", ["red"], "no 'colour'.*one of d_sae, k"),
        ("train.steps", [5000], "no 'steps' that a sweep could replace"),
        (f"{WINDOW}.weight", ["heavy"], f"cannot have this value for '{WINDOW}.weight'.*number.*'heavy'"),
        (f"{WINDOW}.weight", [-1], "greater than or equal to 0"),
        (f"{WINDOW}.lags", {"long": [9, 2]}, "smallest lag comes first"),
        ("train.d_sae", ["wide"], "cannot have this value for 'd_sae'.*integer"),
        ("train.d_sae", [0], "too small"),
    ],
)
def test_an_axis_that_leads_nowhere_or_to_an_impossible_value(
    tmp_path: Path, rows: dict, replaces: str, values: Any, message: str
) -> None:
    grid = {"variants": ["slow"], "axes": {"axis": {"replaces": replaces, "values": values}}}
    with pytest.raises(Problem, match=f"(?s){message}") as caught:
        list(cells_of(sweep_of(tmp_path, {**SWEEP, "grids": [grid]}), rows, SIZES))
    assert caught.value.exit_status == 2


def test_unknown_sweeps_variants_and_controls(tmp_path: Path, rows: dict) -> None:
    with pytest.raises(Problem, match=r"(?s)no sweep 'gird'.*one of grid"):
        find_sweep({"grid": sweep_of(tmp_path, SWEEP)}, "gird")
    for variant, message in (("slwo", "no variant 'slwo'"), ("slow+calm", "no control 'calm'")):
        with pytest.raises(Problem, match=message):
            list(cells_of(sweep_of(tmp_path, {**SWEEP, "grids": [{"variants": [variant]}]}), rows, SIZES))


WORKING = {"l0": 30.0, "explained_variance_centred": 0.8, "dead_latents": 2, "latents": 48}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"l0": 1.0, "explained_variance_centred": 0.01, "dead_latents": 45}, None),
        ({"l0": 0.9}, "a token activates 0.9 latents"),
        ({"explained_variance_centred": -0.785}, "it explains -0.785 of the variance"),
        ({"explained_variance_centred": None}, "it explains nan of the variance"),
        ({"dead_latents": 47}, "98% of the latents are dead"),
    ],
)
def test_what_counts_as_collapsed(changed: dict, reason: str | None) -> None:
    found = collapse_in({**WORKING, **changed})
    assert found is None if reason is None else (found or "").startswith(reason)


def test_experiments_carry_the_numbers_that_exist(tmp_path: Path, rows: dict) -> None:
    *_, cell = cells_of(sweep_of(tmp_path, SWEEP), rows, SIZES)
    scores = {"tcs_short": 0.7, "tcs_short_inputs_permuted": 0.3, "tcs_long": None, "probe_topic_dense": 0.9}
    outcome = Outcome.of_summary(cell, "f" * 64, {**WORKING, **scores, "steps_done": 40})
    assert outcome.metrics == {
        "explained_variance_centred": 0.8,
        "l0": 30.0,
        "dead_latents": 2,
        "tcs_short": 0.7,
        "tcs_short_inputs_permuted": 0.3,
        "steps_done": 40,
        "collapsed": "no",
    }


def test_what_a_guard_ended_is_an_outcome(tmp_path: Path, rows: dict) -> None:
    *_, cell = cells_of(sweep_of(tmp_path, SWEEP), rows, SIZES)
    said = Collapse(
        "topk", 99, "a token activates 0.2 latents", expected="L0 above 0.5", found="l0 0.2", do="L1: lower it"
    )
    outcome = Outcome.of_collapse(cell, "f" * 64, said)
    assert (outcome.steps_done, outcome.collapsed) == (99, "a token activates 0.2 latents")
    assert outcome.metrics == {"steps_done": 99, "collapsed": "a token activates 0.2 latents"}
    assert outcome.document["summary"] is None and "L1: lower it" in outcome.document["ended"]
