"""Code that changes no bit counts as what it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import same_bits
from bench.same_bits import Trained, counted_as, differing


def trained(row: str, bits: str, **code: str) -> Trained:
    return {row: {"trained": bits, "code": code}}


def test_rows_differ_by_their_bytes_and_by_their_modules() -> None:
    before = trained("same", "1", a="x") | trained("other", "1", a="x") | trained("less", "1", a="x", b="x")
    after = trained("same", "1", a="y", c="x") | trained("other", "2", a="x") | trained("less", "1", a="x")
    assert differing(before, after) == ["less", "other"]
    assert differing(before, trained("same", "1", a="y") | trained("new", "1")) == ["less", "new", "other"]
    shared = trained("same", "1", a="x", b="x")
    assert differing(before, shared | trained("other", "1", a="x") | trained("less", "1", a="x", b="x")) == ["same"]


def test_a_module_counts_as_the_oldest_that_was_the_same() -> None:
    once = counted_as(trained("row", "1", a="x", b="z"), trained("row", "1", a="y", b="z"), {})
    assert once == {"a": {"y": "x"}}
    # `code_of` has said "x" for "y" since, and is asked about "w"
    again = counted_as(trained("row", "1", a="x", b="z"), trained("row", "1", a="w", b="z", c="v"), once)
    assert again == {"a": {"y": "x", "w": "x"}, "c": {"v": None}}


@pytest.mark.parametrize(("bits", "status"), [("1", 0), ("2", 1)])
def test_nothing_is_written_where_a_row_differs(
    bits: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "same_bits.json"
    known.write_text("{}")
    monkeypatch.setattr(same_bits, "SAME_BITS", known)
    monkeypatch.setattr(same_bits, "trained_at", lambda _commit: trained("row", "1", a="x"))
    monkeypatch.setattr(same_bits, "trained_by", lambda _tree: trained("row", bits, a="y"))
    monkeypatch.setattr(sys, "argv", ["same_bits", "HEAD"])
    assert same_bits.main() == status
    assert json.loads(known.read_text()) == ({} if status else {"a": {"y": "x"}})
    assert ("row" in capsys.readouterr().out) == bool(status)
