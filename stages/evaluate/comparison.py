"""One tidy table of all evaluations of a profile: a row a variant, seed and metric.

It repeats what the evaluations found and measures nothing. Errors and intervals are of the documents that were
evaluated, not of the training. Intervals are 95 %: of probes the percentiles of their bootstrap; of other metrics as
many standard errors to either side as Student's t says, 1.97 with the 200 replicates of the bootstrap (too few for
percentiles) and 2.26 with the ten groups of documents of the jackknife (lifetimes).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import pandas as pd

from stages.evaluate.catalogue import CATALOGUE, PROBED, REFERENCES, of_level, of_probe, of_unlearning
from stages.evaluate.definition import BETTER, Definition
from stages.evaluate.levels import levels_of
from stages.evaluate.replicates import Replicates, replicates_of
from stages.evaluate.results import Result, read_results
from stages.evaluate.standard_error import half_width
from stages.evaluate.temporal.run import GAIN, gain
from stages.evaluate.unlearned import RMU, Unlearned, read_rmu, task_of_the_profile
from store.files import readable_json, write_atomically
from store.progress import SILENT, Progress

COMPARISON = "comparison"
"""The files' name without suffix."""
BESIDE = {
    "null_inputs_permuted": "codes_inputs_permuted",
    "null_codes_permuted": "codes_permuted",
    "untrained": "untrained",
    "activations": "activations",
}
"""By column, the measure of `temporal.json` that a value is set against."""


@dataclass(frozen=True)
class Entry:
    """A row of the table. What does not exist is None; `catalogue.REFERENCES` says what stands beside a value."""

    variant: str
    """Name of the variant, or of an SAE that was not trained here."""
    seed: int | None
    """Of the training."""
    run: str
    """Path below the results folder."""
    metric: str
    """Its name in the catalogue."""
    title: str
    """What people call it."""
    unit: str
    """Of the value."""
    better: str
    """`higher`, `lower` or `neither`."""
    value: float
    """The number."""
    standard_error: float | None
    """With documents as the sampling unit, by the bootstrap; of lifetimes by the jackknife."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end of it."""
    null_inputs_permuted: float | None
    """The same with the inputs permuted within documents."""
    null_codes_permuted: float | None
    """The same with the codes permuted within documents."""
    untrained: float | None
    """The same of an SAE that was only initialised."""
    activations: float | None
    """The same of the raw activations; of probes, with all their dimensions."""
    majority: float | None
    """Of probes, the accuracy of the most frequent class."""
    gain: float | None
    """Trained minus untrained, each less its null of permuted inputs."""
    gain_standard_error: float | None
    """Of the gain: its four measures are of the same documents, and what they share cancels."""
    definition: str
    """What the metric is."""


def compare(results: Path, progress: Progress = SILENT) -> pd.DataFrame:
    """Write the table of every evaluation below `results` there, as `comparison.parquet`, `.csv` and `.json`.

    Evaluations of an older version are left out, which is said. RMU, which is no SAE, has its unlearning scores alone.

    Equal evaluations give equal bytes; each file is replaced as a whole.

    Raises:
        Problem: an evaluation cannot be read.
    """
    evaluated, rmu = read_results(results, progress), read_rmu(results, progress)
    plain = task_of_the_profile(chain(*(result.unlearned for result in evaluated), *rmu.values()))
    found = [entry for result in evaluated for entry in entries_of(result, plain)]
    found += [entry for run, of in rmu.items() for entry in _scores(Source(RMU, None, run), of, plain)]
    entries = [asdict(entry) for entry in found]
    table = _frame(entries)
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    contents = {
        "parquet": parquet.getvalue(),
        "csv": table.to_csv(index=False, lineterminator="\n").encode(),
        "json": readable_json(entries),
    }
    for suffix, content in contents.items():
        write_atomically(results / f"{COMPARISON}.{suffix}", content)
    return table


class Source(NamedTuple):
    """What the rows of one evaluation have in common."""

    variant: str
    seed: int | None
    run: str


def entries_of(result: Result, plain: str | None) -> Iterator[Entry]:
    """The rows of one evaluation, in the order of the catalogue; none for a metric that has no number. `plain` is the
    task whose unlearning scores have no digits in their names."""
    source = Source(result.variant, result.seed, result.name)
    levels = [each for i in range(len(levels_of(result.summary))) for each in of_level(i)]
    measures, replicates = (result.temporal or {}).get("measures", {}), replicates_of(result)
    for definition in (*CATALOGUE.values(), *levels):
        if definition.path:
            value = definition.at(measures.get("codes"))
            beside = {column: definition.at(measures.get(measure)) for column, measure in BESIDE.items()}
            beside["gain"] = gain_of(measures, definition)
            beside["gain_standard_error"] = result.summary.get(f"{definition.name}_gain_se")
        else:
            value, beside = result.summary.get(definition.name), {}
        error = result.summary.get(f"{definition.name}_se")
        if value is not None:
            interval = _interval(value, error, replicates.get(definition.name))
            yield _entry(source, definition, value, error, interval, beside)
    yield from _probes(source, result)
    yield from _scores(source, result.unlearned, plain)


def gain_of(measures: Mapping[str, Any], definition: Definition) -> float | None:
    """Trained minus untrained, each less its null of permuted inputs; None where one of these has no number."""
    found = [value for measure in GAIN if (value := definition.at(measures.get(measure))) is not None]
    return gain(*found) if len(found) == len(GAIN) else None


def _probes(source: Source, result: Result) -> Iterator[Entry]:
    """The rows of the probes."""
    tasks = (result.probing or {}).get("tasks", {})
    for task in PROBED:
        scores = tasks.get(task, {}).get("scores", {"codes": {}})
        for k, score in sorted(scores["codes"].items(), key=lambda item: int(item[0])):
            beside = {
                "untrained": scores["untrained"][k]["accuracy"],
                "activations": scores["activations"]["all"]["accuracy"],
                "majority": scores["majority"]["all"]["accuracy"],
            }
            interval, error = score["accuracy_interval"], score["accuracy_se"]
            yield _entry(source, of_probe(task, int(k)), score["accuracy"], error, interval, beside)


def _scores(source: Source, unlearned: Sequence[Unlearned], plain: str | None) -> Iterator[Entry]:
    """The rows of unlearnings. A score is the best of a sweep and has no error of its own."""
    for each in unlearned:
        for window, score in each.scores.items():
            yield _entry(source, of_unlearning(window, each, plain), score, None, (None, None), {})


def _interval(value: float, error: float | None, replicates: Replicates | None) -> tuple[float | None, float | None]:
    if error is None:
        return None, None
    half = half_width(error, degrees=replicates.degrees if replicates else math.inf)
    return value - half, value + half


def _entry(
    source: Source,
    definition: Definition,
    value: float,
    error: float | None,
    interval: Sequence[float | None],
    beside: Mapping[str, float | None],
) -> Entry:
    low, high = interval
    return Entry(
        variant=source.variant,
        seed=source.seed,
        run=source.run,
        metric=definition.name,
        title=definition.title,
        unit=definition.unit,
        better=BETTER[definition.better],
        value=value,
        standard_error=error,
        low=low,
        high=high,
        gain_standard_error=beside.get("gain_standard_error"),
        definition=definition.text,
        **{column: beside.get(column) for column in REFERENCES},
    )


def _frame(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows with the same types however few there are."""
    types = get_type_hints(Entry)
    names = {str: "string", int | None: "Int64"}
    return pd.DataFrame(entries, columns=list(types)).astype({c: names.get(t, "float64") for c, t in types.items()})
