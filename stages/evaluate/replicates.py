"""Replicates of the numbers of an evaluation: how its files keep them, and what two evaluations make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stages.evaluate.results import Result
from stages.evaluate.standard_error import standard_error
from stages.evaluate.versions import CORE, fingerprint
from store.files import digest

DIGITS = 7
"""Significant ones that files keep: an error is rarely as small as 1e-4 of its number."""
NOT_OF_DOCUMENTS = ("run", "model_dtype", "tagger")
"""Of what decides an evaluation, that which has no say in which documents it reads."""


@dataclass(frozen=True)
class Replicates:
    """A number of an evaluation in every resample of its documents."""

    drawn: str
    """Digest of what decided the documents: those of one have the same documents in the same place."""
    values: Float[np.ndarray, " replicates"]
    """Their standard deviation is the number's standard error."""

    @property
    def degrees(self) -> int:
        """Degrees of freedom of that error."""
        return len(self.values) - 1

    def pairs_with(self, other: Replicates) -> bool:
        """Whether the replicates of two numbers are of the same documents, one by one."""
        return self.drawn == other.drawn and len(self.values) == len(other.values)


def kept(replicates: Mapping[str, Float[np.ndarray, " replicates"]]) -> dict[str, list[float]]:
    """Rounded, for JSON, of those numbers that have a standard error."""
    return {
        name: [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
        for name, values in replicates.items()
        if math.isfinite(standard_error(values))
    }


def replicates_of(result: Result) -> dict[str, Replicates]:
    """By the names of the summary, what the files of an evaluation keep.

    A `core.json` of an older version has none that could be compared; results with an older `temporal.json` are not
    read at all.
    """
    decided = result.facts.get("decided", {})
    found = dict((result.temporal or {}).get("replicates", {}))
    if result.facts.get("fingerprint") == fingerprint(CORE, decided):
        found |= result.facts["replicates"]
    drawn = digest({key: value for key, value in decided.items() if key not in NOT_OF_DOCUMENTS})
    return {name: Replicates(drawn, np.array(values)) for name, values in found.items()}
