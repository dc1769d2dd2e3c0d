"""What the language model forgets when latents of trained rows are clamped, beside RMU: seed 0, 8,000 steps.

    python -m bench.unlearning             unlearn with the rows that are missing, half an hour each on two cores
    python -m bench.unlearning --table     print the table from `bench/results/unlearning/`

The sweep is that of the current profile. Of every row and window the table has the least accuracy on what is to be
forgotten among the settings that keep a share of all else, and the largest rise of the loss on text to forget among
those that raise the loss on other text by no more than so many nats.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import store
from bench.machine import RESULTS, record
from bench.rows import ROOT, Job, run_of
from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project
from stages.evaluate.unlearned import KEPT, RMU, SPENT, Setting, Sweep
from stages.unlearn.material import Files, read_material
from stages.unlearn.run import unlearn

ROWS = ("topk", "warmup2000", "t-sae")
FOLDER = RESULTS / "unlearning"


def measure() -> None:
    """Unlearn with every row and with RMU, and keep what that came to."""
    project, profile = Project(ROOT), read_params(ROOT).profile
    opened = store.open(project.store(profile))
    folders = [run_of(Job(name, 0), profile, opened).folder for name in ROWS]
    pairs = [(folder, project.results(profile, folder)) for folder in folders]
    with console.progress() as progress:
        material = read_material(Files(), profile.corpus, profile.unlearn)
        results = unlearn(
            pairs, opened.path, profile.model, material, profile.unlearn, project.rmu(profile), progress=progress
        )
    for name, result in zip((*ROWS, RMU), results, strict=True):
        found = result.document["eval_result_unstructured"]
        kept = {key: found[key] for key in ("fingerprint", "material", "scores_by_window")}
        baseline, *sweep = (_in_all(each) for each in (found["baseline"], *found["sweep"]))
        record(f"unlearning/{name}", {"store_root": opened.root, **kept, "baseline": baseline, "sweep": sweep})


def _in_all(outcome: Setting) -> Setting:
    """An outcome without the accuracy on each set of questions."""
    return {key: value for key, value in outcome.items() if key not in ("accuracy", "accuracy_se")}


def table() -> str:
    """The table in Markdown."""
    heads = ["", "window", *(f"forget accuracy, {kept:.0%} kept" for kept in KEPT)]
    heads += [f"rise of forget loss, {spent} spent" for spent in SPENT]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in (*ROWS, RMU):
        path = FOLDER / f"{name}.json"
        lines += _lines(name, json.loads(path.read_text())) if path.exists() else [f"| {name} | not run |"]
    return "\n".join(lines)


def _lines(name: str, document: Mapping[str, Any]) -> list[str]:
    """A line a window."""
    sweep, lines = Sweep(document["baseline"], document["sweep"]), []
    for window in sweep.windows:
        of_window = sweep.of(window)
        best = (of_window.most_forgotten(kept) for kept in KEPT)
        numbers = [*(found and found["forget_accuracy"] for found in best), *map(of_window.largest_rise, SPENT)]
        cells = ["none" if number is None else f"{number:.3f}" for number in numbers]
        lines.append(f"| {name} | {'' if name == RMU else window} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        print(table())
    else:
        measure()
