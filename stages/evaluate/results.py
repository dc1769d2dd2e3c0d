"""What the evaluations of a profile left behind, as comparisons and the report read it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from stages.evaluate.unlearned import FILES, RMU_FOLDERS, Unlearned, read_unlearned
from stages.evaluate.versions import CORE, PROBING, SUMMARY, TEMPORAL, fingerprint
from stages.sae.architecture import PartsRow
from store.problem import Problem
from store.progress import SILENT, Progress


class Setting(NamedTuple):
    """What has to be equal for two runs to be compared; what an SAE that was not trained here lacks is None."""

    seed: int | None
    """Of the training."""
    steps: float
    """Planned ones."""
    tokens_per_step: int | None
    """Positions of a batch."""
    d_sae: int | None
    """Latents."""
    store: str
    """Root digest of the store."""
    layer: int | None
    """Layer of the store."""


@dataclass(frozen=True)
class Result:
    """The evaluation of one run."""

    name: str
    """Path below the results folder: `topk/seed0`."""
    summary: Mapping[str, float | None]
    """`summary.json`."""
    core: Mapping[str, Any]
    """`core.json` without the metrics of single latents."""
    temporal: Mapping[str, Any] | None
    """`temporal.json`; None for an evaluation that did not measure it."""
    probing: Mapping[str, Any] | None
    """`probing.json`; None for an evaluation without probes."""
    unlearned: Sequence[Unlearned]
    """Every unlearning with this SAE."""

    @property
    def variant(self) -> str:
        """Name of the variant: `warmup2000`, or `warmup2000+no-temporal` for a control of it."""
        return str(self.core["sae_lens_release_id"])

    @property
    def seed(self) -> int | None:
        """Of the training; None for an SAE that was not trained here."""
        number = str(self.core["sae_lens_id"]).removeprefix("seed")
        return int(number) if number.isdigit() else None

    @property
    def facts(self) -> dict[str, Any]:
        """What was run on what, as the evaluation recorded it."""
        facts: dict[str, Any] = self.core["eval_result_unstructured"]
        return facts

    @property
    def row(self) -> dict[str, Any]:
        """The variant's row as it was trained; empty for an SAE that was not trained here."""
        row: dict[str, Any] = self.facts["training"].get("row", {})
        return row

    @property
    def setting(self) -> Setting:
        """Runs are compared with runs of the same setting."""
        training = self.facts["training"]
        return Setting(
            seed=self.seed,
            steps=self.number("steps_planned"),
            tokens_per_step=training.get("plan", {}).get("tokens_per_step"),
            d_sae=training.get("d_sae"),
            store=self.facts["store"]["root"],
            layer=training.get("layer"),
        )

    @property
    def k(self) -> int | None:
        """Latents that a sparsifier keeps a token; None where it is not given by a number."""
        k: int | None = self.facts["training"].get("k")
        return k

    @property
    def uses_order(self) -> bool:
        """Whether the variant's objective or architecture uses the order of the tokens."""
        objective = self.row.get("objective", {})
        parts = TypeAdapter(PartsRow).validate_python(self.row.get("parts") or {})
        return bool(objective.get("temporal") or objective.get("contrast") or parts.ordered)

    @property
    def per_token(self) -> bool:
        """Whether it is an SAE of single tokens, trained here for its own sake: no control."""
        return bool(self.row) and not self.uses_order and "+" not in self.variant

    def number(self, name: str) -> float:
        """A number of the summary; NaN where it does not exist."""
        value = self.summary.get(name)
        return math.nan if value is None else float(value)


class Outdated(Problem):
    """The files of an evaluation are not of one, or of an older version."""


def read_results(folder: Path, progress: Progress = SILENT) -> list[Result]:
    """Every finished evaluation below `folder`, by name. What an older version left is left out, which is said.

    Raises:
        Problem: one cannot be read.
    """
    found = []
    for path in sorted(folder.rglob(CORE)):
        try:
            found.append(_read(path.parent, path.parent.relative_to(folder), progress))
        except Outdated as outdated:
            progress.note(f"left out: {outdated.where}: {outdated.what} {outdated.do}")
    for alone in sorted({path.parent for path in folder.rglob(FILES)} - set(folder.glob(RMU_FOLDERS))):
        if not (alone / CORE).exists():
            progress.note(f"left out: {alone}: unlearned, but not evaluated; `pipeline evaluate` does that")
    return found


def _read(folder: Path, name: Path, progress: Progress) -> Result:
    try:
        core, summary = (_json(folder / file) for file in (CORE, SUMMARY))
        temporal, probing = (_json(folder / file) if (folder / file).exists() else None for file in (TEMPORAL, PROBING))
    except (OSError, ValueError) as error:
        raise Problem(
            "This evaluation cannot be read.", where=folder, found=error, do="evaluate the run again"
        ) from error
    core.pop("eval_result_details", None)
    decided = core["eval_result_unstructured"].get("decided", {})
    for file, content in ((TEMPORAL, temporal), (PROBING, probing)):
        if content is not None and content["fingerprint"] != (expected := fingerprint(file, decided)):
            raise Outdated(
                f"{CORE} and {file} are of two evaluations, or of an older version.",
                where=folder,
                expected=f"fingerprint {expected}",
                found=content["fingerprint"],
                do="Evaluate the run again, or delete this folder.",
            )
    unlearned = read_unlearned(folder, decided.get("run"), progress)
    return Result(name.as_posix(), summary, core, temporal, probing, unlearned)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
