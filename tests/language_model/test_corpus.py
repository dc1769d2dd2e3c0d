from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from stages.language_model.config import CorpusConfig
from stages.language_model.corpus import documents, identity
from store.problem import Problem


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, column: str = "text") -> list[tuple[str, str]]:
    return [(d.id, d.text) for d in documents(CorpusConfig(str(path), column))]


def test_reads_text_jsonl_and_parquet_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two\nlines", encoding="utf-8")
    write_lines(tmp_path / "a.jsonl", {"text": "first", "n": 1}, {"text": " ", "n": 2}, {"text": "third", "n": 3})
    (tmp_path / "sub").mkdir()
    pd.DataFrame({"text": ["café", "x"]}).to_parquet(tmp_path / "sub" / "c.parquet")
    (tmp_path / "ignored.md").write_text("no corpus")
    expected = [("a.jsonl:0", "first"), ("a.jsonl:2", "third"), ("b.txt", "two\nlines")]
    expected += [("sub/c.parquet:0", "café"), ("sub/c.parquet:1", "x")]
    assert read(tmp_path) == expected
    assert read(tmp_path / "b.txt") == [("b.txt", "two\nlines")]


def test_identity_is_the_content_and_not_the_place(tmp_path: Path) -> None:
    found = []
    for parent in ("one", "two"):
        folder = tmp_path / parent / "corpus"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("same text")
        found.append(identity(CorpusConfig(str(folder))))
    assert found[0] == found[1] and str(tmp_path) not in json.dumps(found)
    (folder / "a.txt").write_text("another text")
    assert identity(CorpusConfig(str(folder))) != found[0]


def test_another_column(tmp_path: Path) -> None:
    assert read(write_lines(tmp_path / "a.jsonl", {"body": "words"}), "body") == [("a.jsonl:0", "words")]


def test_missing_column_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no column 'text'") as caught:
        read(write_lines(tmp_path / "a.jsonl", {"body": "words", "n": 1}))
    assert "body, n" in str(caught.value) and "a.jsonl" in str(caught.value)


def test_column_without_text(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="holds no text"):
        read(write_lines(tmp_path / "a.jsonl", {"text": 3}))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "z.txt").write_text("fine")
    (tmp_path / name).touch()
    with pytest.raises(Problem, match="is empty") as caught:
        read(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "offset"),
    [
        ("a.txt", b"caf\xe9", 3),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "caf\xe9"}\n', 30),
    ],
)
def test_not_utf8_names_the_byte(tmp_path: Path, name: str, content: bytes, offset: int) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Problem, match="not UTF-8") as caught:
        read(tmp_path)
    assert f"{name}, byte {offset}" in str(caught.value)


def test_a_line_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(Problem, match="not JSON") as caught:
        read(tmp_path)
    assert "a.jsonl, line 2" in str(caught.value)


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(Problem, match="cannot be read") as caught:
        read(tmp_path)
    assert "a.parquet" in str(caught.value)


def test_missing_path_and_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such corpus"):
        read(tmp_path / "absent.txt")
    with pytest.raises(Problem, match="no corpus"):
        read(tmp_path)
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(Problem, match="holds no text"):
        read(tmp_path)


def test_a_folder_that_is_named_like_a_text_is_no_text_and_a_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").mkdir()
    (tmp_path / "chapter.txt" / "a.txt").write_text("words")
    assert [name for name, *_ in read(tmp_path)] == ["chapter.txt/a.txt"]
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Problem, match="cannot be read") as caught:
        read(tmp_path)
    assert "gone.txt" in str(caught.value.where)


def test_a_connection_that_is_lost_between_rows_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*_: object, **__: object):
        yield {"text": "words"}
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", rows)
    with pytest.raises(Problem, match="cannot be had from the hub") as caught:
        list(documents(CorpusConfig("owner/data", revision="1" * 40)))
    assert "reset by peer" in str(caught.value.found)


def test_no_tokens_wanted() -> None:
    with pytest.raises(Problem) as caught:
        CorpusConfig("somewhere", tokens=0)
    assert caught.value.exit_status == 2


def install(folder: Path, package: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    """Put a distribution into `folder`, as an installer would."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {package}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))


def test_reads_a_package_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "k1": {"title": "Zebra", "extract": "An animal.", "topic": "Life"},
        "k2": {"title": "Atom", "extract": "", "topic": "Physics"},
        "k3": {"title": "Bach", "extract": "A composer.", "topic": "Arts"},
    }
    data = json.dumps(entries).encode()
    files = {"fake_wiki/data/summaries_en-us.json": data, "fake_wiki/__init__.py": b"raise SystemExit"}
    install(tmp_path, "fake-wiki", files)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = CorpusConfig("package:fake-wiki")
    found = [(d.id, d.text, d.label) for d in documents(config)]
    assert found == [("Bach", "A composer.", "Arts"), ("Zebra", "An animal.", "Life")]
    assert identity(config)["files"].keys() == {"summaries_en-us.json"}


def test_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.txt").write_text("A text.")
    with pytest.raises(Problem, match=r"not UTF-8[\s\S]*caf\\udce9"):
        identity(CorpusConfig(str(tmp_path)))


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(Problem, match="not installed") as caught:
        list(documents(CorpusConfig("package:no-such-corpus")))
    assert "pip install" in str(caught.value)


def test_a_hub_data_set_without_network() -> None:
    with pytest.raises(Problem, match="cannot be had from the hub"):
        list(documents(CorpusConfig("no-such-owner/no-such-data")))
