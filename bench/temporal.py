"""Time of the temporal metrics of one SAE beside the encodings that they need, and their peak memory.

    python -m bench.temporal RUN [RUN ...] [--batches 44]

RUN is the folder of a training on the current profile's store. What is encoded: the heldout rows by the SAE and by the
untrained one that it is compared with; by SAEs that look across tokens once more with permuted inputs. Every
measurement is a process of its own, with half as many batches and with all, so that memory can be seen not to grow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import store
from bench.machine import record
from pipeline.params import read_params
from pipeline.paths import Project
from stages.evaluate.batches import Batches
from stages.evaluate.temporal.run import temporal
from stages.evaluate.trained_run import TrainedRun
from stages.evaluate.untrained import count_firings, references
from stages.memory import keep_freed_memory
from stages.sae.model import SAE
from stages.train.measure import peak_memory
from store import ActivationStore

ROOT = Path(__file__).parents[1]


@torch.no_grad()
def measure(folder: Path, n_batches: int) -> dict[str, Any]:
    """Seconds of both, of this process."""
    keep_freed_memory()
    params = read_params(ROOT)
    opened, run = store.open(Project(ROOT).store(params.profile)), TrainedRun.read(folder)
    batches = Batches.divide(opened.rows("heldout"), params.profile.evaluate).variance[:n_batches]
    sae = run.load()
    firings = count_firings({"": sae}, opened, run.layer, batches)
    active = float(firings[""].sum()) / sum(int((opened.document(rows) >= 0).sum()) for rows in batches)
    blueprint = run.blueprint(sae, active)
    (fresh,) = references([blueprint], opened, run.layer, batches[0], sae.W_dec.device).values()
    passes = 2 if sae.row.ordered else 1
    encoding = passes * seconds_of_encoding(sae, opened, run.layer, batches)
    encoding += passes * seconds_of_encoding(fresh, opened, run.layer, batches)
    begun = time.perf_counter()
    temporal({"": sae}, {"": blueprint}, firings, opened, run.layer, batches)
    return {
        "tokens": sum(batch.size for batch in batches) * opened.context,
        "seconds": time.perf_counter() - begun,
        "seconds_of_encoding": encoding,
        "peak_bytes": peak_memory(),
    }


def seconds_of_encoding(sae: SAE, opened: ActivationStore, layer: int, batches: list[np.ndarray]) -> float:
    """Reading and encoding all batches once."""
    begun = time.perf_counter()
    for rows in batches:
        sae.encoding(opened.read(layer, rows).float(), torch.as_tensor(opened.document(rows))).codes.dense()
    return time.perf_counter() - begun


def in_a_process(folder: Path, n_batches: int) -> dict[str, Any]:
    """`measure`, where nothing else has used memory."""
    command = [sys.executable, "-m", "bench.temporal", str(folder), "--batches", str(n_batches), "--child"]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return found


def figures(folder: Path, n_batches: int) -> dict[str, Any]:
    """What is reported of a run: seconds that each SAE takes whatever the number of tokens (eigenvalues, clusters,
    tests), those that a million tokens add, and the whole over the encodings."""
    half, whole = (in_a_process(folder, n) for n in (n_batches // 2, n_batches))
    slope = (whole["seconds"] - half["seconds"]) / (whole["tokens"] - half["tokens"])
    return {
        "tokens": whole["tokens"],
        "seconds_whatever_the_tokens": round(whole["seconds"] - slope * whole["tokens"], 1),
        "seconds_more_per_million_tokens": round(slope * 1e6, 1),
        "times_the_encodings": round(whole["seconds"] / whole["seconds_of_encoding"], 2),
        "peak_bytes": whole["peak_bytes"],
        "peak_bytes_with_half_the_tokens": half["peak_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=44)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.runs[0], arguments.batches)))
        return
    record("temporal", {"runs": {run.parent.name: figures(run, arguments.batches) for run in arguments.runs}})


if __name__ == "__main__":
    main()
