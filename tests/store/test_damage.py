"""Each kind of damage is found, by what the table says, and nothing outside the store is ever touched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import store
from store import StoreWriter, remove_store
from store.problem import Problem
from tests.store.damage import DAMAGE, Damage
from tests.store.make import make, spec, write


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of one geometry, beside a folder that is none of their business."""
    place = tmp_path_factory.mktemp("damage")
    make(place / "store")
    make(place / "other", seed=1)
    (place / "outside").mkdir()
    (place / "outside/precious").write_text("keep")
    return place


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "place")


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    rows = [("damage", "opening", "verify", "5 % sample", "verify --expect")]
    yield rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def outside(place: Path) -> dict[str, tuple[bytes, int]]:
    """Everything beside the store: content, and times that writing would change."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_relative_to(place / "store")]
    return {
        str(path.relative_to(place)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
        if path.name != "store.lock"
    }


def opening(folder: Path) -> str:
    try:
        store.open(folder)
    except Problem:
        return "refused"
    return "-"


def verifying(folder: Path, sample: float = 1.0, expect: str | None = None) -> str:
    try:
        result = store.verify(folder, sample=sample)
    except Problem:
        return "refused"
    return "found" if result.problems or (expect and result.root != expect) else "-"


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_damage_is_found_and_nothing_outside_is_touched(
    place: Path, damage: Damage, table: list[tuple[str, ...]]
) -> None:
    folder, root = place / "store", store.open(place / "store").root
    damage.harm(folder, place / "other")
    before = outside(place)
    seen = opening(folder), verifying(folder), verifying(folder, 0.05), verifying(folder, expect=root)
    table.append((damage.kind, *seen))
    assert (seen[0] != "-") == (damage.found_by == "opening")
    assert (seen[1] != "-") == (damage.found_by in ("opening", "verify"))
    assert (seen[3] != "-") == (damage.found_by != "nothing")
    for act in (
        lambda: store.repair(folder),
        lambda: write(folder),
        lambda: StoreWriter.open(folder, spec()).__exit__(None, None, None),
        lambda: remove_store(folder),
    ):
        with suppress(Problem):
            act()
        assert outside(place) == before
