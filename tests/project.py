"""A small project in a folder: a tiny random model, a local corpus, the command line run in this process."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.app import main
from tests.tiny import SENTENCES, tiny_model_folder

VARIANTS: dict[str, dict] = {
    "baseline": {
        "source": "a test",
        "reading": "small numbers",
        "sparsifier": {"kind": "relu"},
        "objective": {"l1": 0.04, "l1_warmup": 5, "aux": 0.03125, "dead_after_tokens": 2000},
        "optimizer": {"name": "adam", "lr": 3e-3, "warmup": 5, "decay": 0.2, "clip": None},
    },
    "topk": {
        "source": "a test",
        "reading": "small numbers",
        "sparsifier": {"kind": "topk"},
        "objective": {"l1": 0.0, "l1_warmup": 0, "aux": 0.03125, "dead_after_tokens": 2000},
        "optimizer": {"name": "adam", "lr": 3e-3, "warmup": 5, "decay": 0.2, "clip": 1.0},
    },
}
VARIANTS["slow"] = {
    **VARIANTS["baseline"],
    "objective": {
        **VARIANTS["baseline"]["objective"],
        "temporal": {
            "scales": [{"name": "short", "lags": [1, 4], "weight": 0.01}],
            "delay": 10,
            "ramp": 10,
            "latent_weights": "variance",
            "variance_threshold": 0.01,
            "threshold_unit": "mean_variance",
        },
    },
}
VARIANTS["slow+no-temporal"] = {"of": VARIANTS["slow"]}


def write_corpus(path: Path, documents: int = 120, seed: int = 0) -> Path:
    """Random sentences of the tokenizer's training text, one JSON line a document."""
    draw = random.Random(seed)
    lines = [
        json.dumps({"text": f"{index} " + " ".join(draw.choices(SENTENCES, k=draw.randint(1, 6)))})
        for index in range(documents)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def profile(name: str, model: Path | str, corpus: Path, layers: int | str = 1) -> dict:
    """A profile that takes seconds."""
    return {
        "name": name,
        "model": {"name": f"tiny/{name}", "source": str(model)},
        "corpus": {"source": str(corpus)},
        "harvest": {"layers": layers, "context": 16, "heldout": 0.2},
        "train": {"d_sae": 48, "k": 4, "batch_rows": 4, "steps": 40},
        "evaluate": {"batch_rows": 4},
    }


def write_params(root: Path, params: dict) -> None:
    """params.yaml with the current profile as an alias, as the real file has it."""
    text = yaml.safe_dump({"run": params["run"]})
    text += "profiles:\n"
    for name, content in params["profiles"].items():
        body = yaml.safe_dump(content).replace("\n", "\n    ").rstrip()
        text += f"  {name}: &{name}\n    {body}\n"
    text += f"profile: *{params['profile']}\n"
    (root / "params.yaml").write_text(text)


@dataclass
class TinyProject:
    """The folder, and the command line in it."""

    root: Path
    params: dict
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def save(self) -> None:
        """Write changed parameters."""
        write_params(self.root, self.params)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run `pipeline ARGUMENTS`; returns exit status, stdout, stderr."""
        self.patch.setattr(sys, "argv", ["pipeline", *arguments])
        self.capture.readouterr()
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        printed = self.capture.readouterr()
        return status, printed.out, printed.err


def make_project(root: Path, model: Path, documents: int = 120) -> dict:
    """Lay out params.yaml, variants.yaml and a corpus; returns the parameters."""
    root.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(root / "corpus.jsonl", documents)
    params = {
        "run": {"variants": ["baseline", "topk"], "seeds": [0]},
        "profiles": {
            "tiny": profile("tiny", model, corpus),
            "deeper": profile("deeper", root / "absent-model", corpus, layers=19),
        },
        "profile": "tiny",
    }
    write_params(root, params)
    (root / "variants.yaml").write_text(yaml.safe_dump(VARIANTS))
    return params


def tiny_gemma(folder: Path) -> Path:
    """The model that the projects use."""
    return tiny_model_folder(folder, kind="gemma3", layers=3, d=32)
