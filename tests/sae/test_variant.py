"""The table of variants: what it holds, and what a person is told about a mistake in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.sae import find_variant, load_variants
from store.problem import Problem

TABLE = Path(__file__).parents[2] / "variants.yaml"


def changed(tmp_path: Path, *path: str, value: Any = None, remove: bool = False) -> Path:
    """The table with one number of `topk` changed, added or removed."""
    table = yaml.safe_load(TABLE.read_text())
    row = table["topk"]
    for key in path[:-1]:
        row = row[key]
    if remove:
        del row[path[-1]]
    else:
        row[path[-1]] = value
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(table))
    return tmp_path / "variants.yaml"


def test_rows_of_the_table() -> None:
    table = load_variants(TABLE)
    assert {"baseline", "topk"} <= set(table)
    assert all(name == row.name and row.source and row.reading for name, row in table.items())
    baseline = table["baseline"]
    assert (baseline.sparsifier.kind, baseline.objective.l1, baseline.optimizer.lr) == ("relu", 0.04, 3e-4)
    assert (baseline.optimizer.warmup, baseline.objective.l1_warmup) == (1000, 1000)


@pytest.mark.parametrize(
    ("path", "value", "what", "expected"),
    [
        (("objective", "l2"), 0.1, "unknown key 'l2'", "l1, l1_warmup, aux, dead_after_tokens"),
        (("colour",), "red", "unknown key 'colour'", "source, reading, sparsifier, objective, optimizer"),
        (("objective", "l1"), -1.0, "'objective.l1'", "greater than or equal to 0"),
        (("objective", "l1_warmup"), 1.5, "'objective.l1_warmup'", "integer"),
        (("optimizer", "lr"), 0.0, "'optimizer.lr'", "greater than 0"),
        (("optimizer", "lr"), float("nan"), "'optimizer.lr'", ""),
        (("optimizer", "decay"), 1.0, "'optimizer.decay'", "less than 1"),
        (("optimizer", "name"), "sgd", "'optimizer.name'", "'adam'"),
        (("sparsifier", "kind"), "jump", "'sparsifier.kind'", "'relu', 'topk', 'batchtopk' or 'jumprelu'"),
        (("optimizer",), "adam", "'optimizer'", ""),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(
    path: tuple[str, ...], value: Any, what: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(Problem) as mistake:
        load_variants(changed(tmp_path, *path, value=value))
    assert what in mistake.value.what and "'topk'" in mistake.value.what
    assert expected in str(mistake.value.expected)
    assert mistake.value.exit_status == 2


def test_missing_key(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="lacks the key 'lr'"):
        load_variants(changed(tmp_path, "optimizer", "lr", remove=True))


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".", "a..b", "a b"])
def test_a_name_that_no_folder_should_have(name: str, tmp_path: Path) -> None:
    table = yaml.safe_load(TABLE.read_text())
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump({name: table["topk"]}))
    with pytest.raises(Problem, match="cannot be called") as mistake:
        load_variants(tmp_path / "variants.yaml")
    assert mistake.value.exit_status == 2 and "letters, digits" in str(mistake.value.expected)


def test_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(Problem, match="no variant 'topkk'") as mistake:
        find_variant(load_variants(TABLE), "topkk")
    assert "baseline" in str(mistake.value.expected) and "topk" in str(mistake.value.expected)
    assert mistake.value.exit_status == 2


@pytest.mark.parametrize("text", ["", "- topk\n", "topk: [", "topk: 3\n", "topk: {name: other}\n"])
def test_files_that_are_no_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text(text)
    with pytest.raises(Problem):
        load_variants(tmp_path / "variants.yaml")


def test_absent_table(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="cannot be read"):
        load_variants(tmp_path / "variants.yaml")


def test_changing_one_number_changes_one_row(tmp_path: Path) -> None:
    table, other = load_variants(TABLE), load_variants(changed(tmp_path, "optimizer", "lr", value=5e-4))
    assert {name for name in table if table[name] != other[name]} == {"topk"}


def test_temporal_rows_have_controls() -> None:
    table = load_variants(TABLE)
    row, without = table["warmup2000"], find_variant(table, "warmup2000+no-temporal")
    assert row.objective.temporal is not None and without.objective.temporal is not None
    assert [scale.weight for scale in row.objective.temporal.scales] == [0.01, 0.005, 0.001]
    assert [scale.weight for scale in without.objective.temporal.scales] == [0, 0, 0]
    assert (without.name, without.control, row.control) == ("warmup2000+no-temporal", "no-temporal", None)
    permuted = find_variant(table, "warmup2000+permuted")
    assert (permuted.objective, permuted.control) == (row.objective, "permuted")


@pytest.mark.parametrize(
    ("name", "what", "expected"),
    [
        ("topk+no-temporal", "no temporal terms or parts", "objective.temporal"),
        ("warmup2000+nothing", "no control 'nothing'", "warmup2000+no-temporal or warmup2000+permuted"),
        ("warmup2000+permuted+permuted", "no control", "warmup2000+permuted"),
        ("cooldown+permuted", "no variant 'cooldown", "warmup2000"),
    ],
)
def test_controls_that_do_not_exist(name: str, what: str, expected: str) -> None:
    with pytest.raises(Problem, match=what) as mistake:
        find_variant(load_variants(TABLE), name)
    assert expected in str(mistake.value.expected) and mistake.value.exit_status == 2


def test_a_control_stands_below_its_row(tmp_path: Path) -> None:
    row = yaml.safe_load(TABLE.read_text())["warmup2000"]
    table = {"warmup2000+no-temporal": {"of": row}, "warmup2000": row}
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    with pytest.raises(Problem, match="is not the alias of a row above it"):
        load_variants(tmp_path / "variants.yaml")


def test_a_control_in_the_table_is_an_alias_of_its_row(tmp_path: Path) -> None:
    table = yaml.safe_load(TABLE.read_text())
    table["warmup2000+no-temporal"]["of"] = {**table["warmup2000"], "source": "elsewhere"}
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(Problem, match="is not the alias of a row") as mistake:
        load_variants(tmp_path / "variants.yaml")
    assert mistake.value.expected == "warmup2000+no-temporal: {of: *warmup2000}"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("temporal", "scales", 1, "lags"), [0, 4], "objective.temporal.scales.1.lags.0"),
        (("temporal", "scales", 1, "lags"), [9, 4], "objective.temporal.scales.1"),
        (("temporal", "scales"), [], "objective.temporal.scales"),
        (("temporal", "scales", 0, "height"), 1, "unknown key 'height'"),
        (("temporal", "buffers", "mixing"), 1.5, "objective.temporal.buffers.mixing"),
        (("temporal", "latent_weights"), "entropy", "objective.temporal.latent_weights"),
        (("temporal", "scales", 1, "name"), "../../elsewhere", "objective.temporal.scales.1.name"),
        (("temporal", "scales", 1, "name"), "short", "scales have names of their own"),
        (("pruning",), {"at": [0.5, 0.2], "density": 0.1}, "the shares of the steps rise"),
        (("reconstruction_boost", "factor"), 0, "objective.reconstruction_boost.factor"),
    ],
)
def test_mistakes_in_a_temporal_row_are_named(
    path: tuple[str | int, ...], value: Any, where: str, tmp_path: Path
) -> None:
    table = yaml.safe_load(TABLE.read_text())
    place = table["warmup2000"]["objective"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(Problem) as mistake:
        load_variants(tmp_path / "variants.yaml")
    assert where in str(mistake.value) and mistake.value.exit_status == 2
