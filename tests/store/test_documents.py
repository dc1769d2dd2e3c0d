"""Duplicates share a split, and the shares come out as asked."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.documents import DocumentWriter, split_of
from store.problem import Problem


@given(text=st.text(), heldout=st.floats(0, 1))
def test_case_and_white_space_do_not_matter(text: str, heldout: float) -> None:
    split = split_of(text, heldout)
    assert split == split_of(f"  {text}\n", heldout)
    assert split == split_of(" \t".join(text.split()), heldout)
    assert split_of("STRASSE " + text, heldout) == split_of("straße\n" + text, heldout)


def test_compatibility_forms_do_not_matter() -> None:
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert split_of("\ufb01ve \uff21pples", share) == split_of("five apples", share)


@given(text=st.text())
def test_none_and_all(text: str) -> None:
    assert split_of(text, 0.0) == "train" and split_of(text, 1.0) == "heldout"


@given(text=st.text(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_share_only_adds(text: str, low: float, high: float) -> None:
    if split_of(text, min(low, high)) == "heldout":
        assert split_of(text, max(low, high)) == "heldout"


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_about_right(share: float) -> None:
    n = sum(split_of(f"document {i}", share) == "heldout" for i in range(4000))
    assert abs(n / 4000 - share) < 0.03


def test_the_assignment_never_changes() -> None:
    """Stores that exist depend on it."""
    assert [i for i in range(20) if split_of(str(i), 0.3) == "heldout"] == [4, 8, 9, 10, 13, 17]


def test_a_file_system_that_refuses_is_one_message(tmp_path: Path) -> None:
    """In the table and in its footer."""
    write_documents(tmp_path / "whole")
    size = (tmp_path / "whole").stat().st_size
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, size - 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            with pytest.raises(Problem, match="could not be written"):
                write_documents(tmp_path / "documents.parquet")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def write_documents(path: Path) -> None:
    documents = DocumentWriter(path)
    try:
        for number in range(10):
            documents.add(str(number), "test", None, "train", number)
        documents.commit()
    finally:
        documents.discard()
