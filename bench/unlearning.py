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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import store
from bench.machine import RESULTS, record
from bench.rows import ROOT, Job, run_of
from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project
from stages.unlearn.material import Files, read_material
from stages.unlearn.run import RMU, unlearn

ROWS = ("topk", "warmup2000", "t-sae")
KEPT, SPENT = (0.99, 0.97, 0.95), (0.01, 0.03, 0.1)
"""Accuracy on what is to be kept, SAEBench's first; rises of the loss on text to retain, in nats."""
FOLDER = RESULTS / "unlearning"
Setting = Mapping[str, Any]


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
    untouched, lines = document["baseline"], []
    for window in sorted({each.get("window", 1) for each in document["sweep"]}):
        settings = [each for each in document["sweep"] if each.get("window", 1) == window]
        accuracies = ([s["forget_accuracy"] for s in settings if s["retain_accuracy"] >= kept] for kept in KEPT)
        rises = [[s[loss] - untouched[loss] for loss in ("forget_loss", "retain_loss")] for s in settings]
        forgotten = ([forget for forget, retain in rises if retain <= spent] for spent in SPENT)
        cells = [*(_best(min, found) for found in accuracies), *(_best(max, found) for found in forgotten)]
        lines.append(f"| {name} | {'' if name == RMU else window} | " + " | ".join(cells) + " |")
    return lines


def _best(choose: Callable[[Sequence[float]], float], values: Sequence[float]) -> str:
    return f"{choose(values):.3f}" if values else "none"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        print(table())
    else:
        measure()
