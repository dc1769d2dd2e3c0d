"""Our evaluation on text of the jobs of `bench.saebench`, as SAEBench's is run: the model is loaded already."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from stages.evaluate import on_text
from stages.evaluate.config import EvaluateConfig
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import load


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """What we write, by SAE, and how long it took once the model was loaded."""
    config = ModelConfig(job["name"], job["model"], dtype="float32")
    lm = load(config)
    on_text.load = lambda *_: lm  # type: ignore[assignment]
    batches = job["reconstruction"] + job["variance"]
    text = CorpusConfig(job["text"], tokens=batches * job["batch_rows"] * job["context"])
    settings = EvaluateConfig(job["batch_rows"], job["reconstruction"] / batches)
    runs = [(Path(folder), Path(job["out"]) / "ours" / name) for name, folder in job["saes"].items()]
    begun = time.perf_counter()
    on_text.evaluate_on_text(runs, text, job["context"], config, settings)
    seconds = time.perf_counter() - begun
    found = {out.name: json.loads(next(out.glob("core-*.json")).read_text()) for _, out in runs}
    return {"seconds": seconds, "found": found}


if __name__ == "__main__":
    jobs, answer = map(Path, sys.argv[1:])
    answer.write_text(json.dumps({"answers": [evaluate(job) for job in json.loads(jobs.read_text())]}))
