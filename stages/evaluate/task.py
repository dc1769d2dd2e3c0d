"""One evaluation: what it is of, which of its files are there already, and writing the others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.evaluate.output import EvaluationResult
from stages.evaluate.subject import Subject
from stages.evaluate.versions import SUMMARY, fingerprint
from store.files import write_json

TOGETHER, LATENTS = 4, 40_000
"""SAEs of a layer that are measured at a time, and latents of all of them. They share the passes of the language model
and what they are compared with; each takes up to 0.25 MB a latent, and results are written once all are measured."""


class Part(Protocol):
    """What one file holds."""

    def document(self, fingerprint: str) -> dict[str, Any]:
        """Its content."""

    def summary(self) -> dict[str, float]:
        """Its flat numbers; NaN for one that does not exist."""


@dataclass(frozen=True)
class Task:
    """An evaluation of one SAE."""

    out: Path
    """Folder of its files."""
    suffix: str
    """What their names end with."""
    subject: Subject
    """What is evaluated."""
    decided: Mapping[str, Any]
    """What decides the numbers, but for the code."""
    kept: Mapping[str, float | None]
    """Flat numbers of the files that stay."""
    missing: Sequence[str]
    """Files that have to be measured."""

    @classmethod
    def prepare(
        cls, out: Path, subject: Subject, decided: Mapping[str, Any], files: Sequence[str], suffix: str = ""
    ) -> Task:
        """See which of `files` are there, of this very evaluation; none counts whose numbers `summary.json` lacks."""
        found = {name: _read(out / _with(name, suffix)) for name in (SUMMARY, *files)}
        summary = found[SUMMARY]
        missing = [
            name for name in files if summary is None or _fingerprint_in(found[name]) != fingerprint(name, decided)
        ]
        kept = {} if len(missing) == len(files) or summary is None else summary
        return cls(out, suffix, subject, decided, kept, missing)

    @property
    def key(self) -> str:
        """Unique among the SAEs evaluated together; names are not, one may be trained twice."""
        return str(self.out)

    def write(self, parts: Mapping[str, Part]) -> None:
        """Write what was missing. The flat numbers come first: a file that is there means that its numbers are."""
        numbers = {name: value for part in parts.values() for name, value in part.summary().items()}
        measured = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        write_json(self.path(SUMMARY), {**self.kept, **measured})
        for name, part in parts.items():
            write_json(self.path(name), part.document(fingerprint(name, self.decided)))

    def result(self) -> EvaluationResult:
        """What the files say."""
        did = "evaluated" if self.missing else "finished before"
        return EvaluationResult(self.subject.name, json.loads(self.path(SUMMARY).read_text()), did)

    def path(self, name: str) -> Path:
        """Where a file is."""
        return self.out / _with(name, self.suffix)


def together(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """The tasks in groups of one layer that are measured at a time."""
    for layer in sorted({task.subject.layer for task in tasks}):
        group: list[Task] = []
        for task in (task for task in tasks if task.subject.layer == layer):
            latents = sum(each.subject.facts["d_sae"] for each in (*group, task))
            if group and (len(group) == TOGETHER or latents > LATENTS):
                yield group
                group = []
            group.append(task)
        yield group


def _with(name: str, suffix: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem + suffix + dot + extension


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _fingerprint_in(document: Any) -> str | None:
    """SAEBench's format has room for it in `eval_result_unstructured` alone; None where there is none."""
    try:
        return str(document.get("eval_result_unstructured", document)["fingerprint"])
    except (AttributeError, KeyError, TypeError):
        return None
