"""Core evaluation beside SAEBench 0.6.0's own: every number on the same tokens, time and peak memory.

    python -m bench.saebench [--runs RUN RUN RUN] [--piece PIECE]...     measure the pieces that are missing
    python -m bench.saebench --table                                     print the tables from the pieces that are there

`tiny` are models of five architectures with live and dead SAEs, per token and temporal; `one` and `three` the current
profile's model with the first and with all of three trained runs (`baseline`, `topk`, `warmup2000` if none are named),
on heldout documents. SAEBench runs in an environment of its own, which is made in the user's cache. Both run in
float32 in processes of their own, one after the other; time counts from when the model is loaded, memory is the peak of
the whole process. A latent whose pre-activation is 0 but for rounding may fire in one and not in the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import RESULTS, machine
from bench.saebench_environment import saebench_python
from bench.saebench_table import SMALL, table
from pipeline.params import Profile, read_params
from pipeline.paths import Project
from stages.evaluate.text import PackedText
from stages.evaluate.trained_run import SAE_FOLDER
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.corpus import documents
from stages.language_model.model import load
from stages.language_model.source import resolve
from stages.sae.architecture import NO_PARTS
from stages.sae.files import save
from store.documents import split_of
from store.files import write_json
from store.layout import hook_name
from tests.evaluate.stand_ins import TEMPORAL, sae_with, units_of
from tests.project import write_corpus
from tests.tiny import KINDS, tiny_model_folder

ROOT = Path(__file__).parents[1]
PIECES = RESULTS / "saebench"
VARIANTS = ("baseline", "topk", "warmup2000")
DOCUMENTS = 200
"""Heldout documents that are written down: more than the batches need."""
TINY_D, TINY_LAYER, TINY_CONTEXT = 32, 1, 24


@dataclass(frozen=True)
class Job:
    """SAEs of one model, to evaluate on one text."""

    name: str
    """Of the model."""
    model: str
    """Its folder."""
    saes: dict[str, str]
    """Folders in SAELens's format, by name."""
    text: str
    """`train.jsonl` in a folder of its own."""
    out: str
    """Folder of results."""
    context: int = 128
    batch_rows: int = 8
    """Of 16 as usual SAEBench would need 20 GB for the logits of a vocabulary of 262,144."""
    reconstruction: int = 2
    """Batches that are spliced into the model."""
    variance: int = 4
    """Batches for sparsity and variance."""


def tiny_job(kind: str, folder: Path) -> Job:
    """A tiny random model of an architecture, and SAEs of it that were never trained."""
    model = tiny_model_folder(folder, kind, d=TINY_D)
    (folder / "text").mkdir()
    text = write_corpus(folder / "text" / "train.jsonl")
    lm = load(ModelConfig(kind, str(model), dtype="float32"))
    packed = PackedText.pack(lm, [TINY_LAYER], CorpusConfig(str(text)), TINY_CONTEXT)
    x = packed.read(TINY_LAYER, np.arange(len(packed)))
    units = units_of(x[packed.all_documents >= 0])
    metadata = {"model_name": kind, "hook_name": hook_name(TINY_LAYER)}
    saes = {}
    for name, parts in {"per token": NO_PARTS, **TEMPORAL}.items():
        for dead in (False, True):
            path = folder / ("dead " * dead + name)
            save(path, sae_with(parts, TINY_D, TINY_CONTEXT, dead=dead), units, metadata)
            saes[path.name] = str(path)
    return Job(kind, str(model), saes, str(text), str(folder), TINY_CONTEXT, 4)


def trained_job(profile: Profile, runs: Sequence[Path], folder: Path) -> Job:
    """The profile's model, trained runs, and heldout documents."""
    texts = (each.text for each in documents(profile.corpus))
    heldout = (text for text in texts if split_of(text, profile.harvest.heldout) == "heldout")
    path = folder / "text" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in islice(heldout, DOCUMENTS)))
    saes = {run.parent.name: str(run.absolute() / SAE_FOLDER) for run in runs}
    return Job(profile.model.name, str(resolve(profile.model)), saes, str(path), str(folder), profile.harvest.context)


def run(python: Path | str, module: str, jobs: Sequence[Job], folder: Path) -> dict[str, Any]:
    """Have jobs done in a process of its own; its answers, and the bytes that it held at most."""
    given, answer = folder / "jobs.json", folder / f"{module}.json"
    given.write_text(json.dumps([asdict(job) for job in jobs]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen([str(python), "-m", module, str(given), str(answer)], cwd=ROOT, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{module} ended with {os.waitstatus_to_exitcode(status)}")
    return {**json.loads(answer.read_text()), "peak_bytes": usage.ru_maxrss * 1024}


def compared(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Both values of each scalar, and the largest differences of the metrics of single latents."""
    scalars = {
        name: {"saebench": value, "ours": ours["eval_result_metrics"][category][name]}
        for category, values in theirs["eval_result_metrics"].items()
        for name, value in values.items()
    }
    latents = {}
    for name in theirs["eval_result_details"][0]:
        a, b = (np.array([row[name] for row in core["eval_result_details"]]) for core in (theirs, ours))
        large = np.abs(a) >= SMALL
        relative = np.abs(a - b)[large] / np.abs(a)[large]
        latents[name] = {
            "largest_relative": float(relative.max(initial=0.0)),
            "largest_absolute_of_small": float(np.abs(a - b)[~large].max(initial=0.0)),
        }
    return {"scalars": scalars, "latents": latents}


def measure(piece: str, runs: Sequence[Path]) -> dict[str, Any]:
    """One piece, from files to figures."""
    with tempfile.TemporaryDirectory(dir=ROOT) as temporary:
        folder = Path(temporary)
        if piece == "tiny":
            for kind in KINDS:
                (folder / kind).mkdir()
            jobs = [tiny_job(kind, folder / kind) for kind in KINDS]
        else:
            profile = read_params(ROOT).profile
            jobs = [trained_job(profile, runs[:1] if piece == "one" else runs, folder)]
        theirs = run(saebench_python(), "bench.saebench_theirs", jobs, folder)
        ours = run(sys.executable, "bench.saebench_ours", jobs, folder)
    sides = {"saebench": theirs, "ours": ours}
    return {
        "machine": machine(),
        "saebench": theirs["versions"],
        "peak_bytes": {name: side["peak_bytes"] for name, side in sides.items()},
        "models": {
            job.name: {
                "context": job.context,
                "batch_rows": job.batch_rows,
                "batches": {"reconstruction": job.reconstruction, "variance": job.variance},
                "seconds": {name: round(side["answers"][i]["seconds"], 1) for name, side in sides.items()},
                "saes": {
                    name: compared(*(side["answers"][i]["found"][name] for side in sides.values())) for name in job.saes
                },
            }
            for i, job in enumerate(jobs)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--piece", choices=("tiny", "one", "three"), action="append")
    parser.add_argument("--runs", type=Path, nargs=3)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(PIECES))
        return
    profile, project = read_params(ROOT).profile, Project(ROOT)
    runs = arguments.runs or [project.run(profile, variant, 0) for variant in VARIANTS]
    for piece in arguments.piece or ("tiny", "one", "three"):
        path = PIECES / f"{piece}.json"
        if not path.exists():
            write_json(path, measure(piece, runs))
            print(f"{path.name}: done", flush=True)


if __name__ == "__main__":
    main()
