"""SAEBench's own core evaluation of jobs of `bench.saebench`, run by the interpreter of its environment.

It would ask the hub for the language model; it is handed the same weights from disk, in TransformerLens's bridge.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.core import main as core
from sae_lens import SAE
from transformer_lens.model_bridge import TransformerBridge

import stages.sae.saelens  # noqa: F401 (SAELens then reads SAEs with parts that do not fold)

VERSIONS = ("sae-bench", "sae-lens", "transformer-lens", "transformers", "torch", "numpy")


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """What SAEBench writes, by SAE, and how long it took once the model was loaded."""
    bridge = TransformerBridge.boot_transformers(job["model"], device="cpu", dtype=torch.float32)
    loader = staticmethod(lambda *_, **__: bridge)
    core.HookedTransformer = type("Loader", (), {"from_pretrained_no_processing": loader})
    saes = [(name, SAE.load_from_disk(folder, device="cpu")) for name, folder in job["saes"].items()]
    out = Path(job["out"]) / "saebench"
    begun = time.perf_counter()
    core.multiple_evals(
        saes,
        job["reconstruction"],
        job["variance"],
        job["batch_rows"],
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=str(Path(job["text"]).parent),
        context_size=job["context"],
        output_folder=str(out),
        device="cpu",
        force_rerun=True,
    )
    seconds = time.perf_counter() - begun
    found = {name: json.loads((out / f"{name}_custom_sae_eval_results.json").read_text()) for name in job["saes"]}
    return {"seconds": seconds, "found": found}


if __name__ == "__main__":
    jobs, answer = map(Path, sys.argv[1:])
    answers = [evaluate(job) for job in json.loads(jobs.read_text())]
    versions = {name: metadata.version(name) for name in VERSIONS}
    answer.write_text(json.dumps({"versions": versions, "answers": answers}))
