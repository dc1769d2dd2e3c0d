"""Harvests again and again and kills them with SIGKILL, all along their way.

Run as a program, so that its forked children die and not the tests:

    python -m tests.harvest.crash FOLDER SEED KILLS     prints one JSON line per kill, one per finished store
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import distributed  # noqa: F401  as the line below: imported here once, and not again by every harvest
import torch
import transformers.models.gemma2.modeling_gemma2  # noqa: F401

import store.manifest
from stages.harvest.harvest import harvest
from stages.language_model.config import CorpusConfig, ModelConfig
from store.manifest import NAME, Manifest
from tests.forks import in_child
from tests.harvest.small import CONFIG
from tests.project import write_corpus
from tests.store.crash import die_at
from tests.store.make import content
from tests.tiny import tiny_model_folder

STORED = replace(CONFIG, dtype="bfloat16")


def phase(folder: Path) -> str:
    """How far the harvest in `folder` has come, by its manifest."""
    if not (folder / NAME).exists():
        return "nothing"
    manifest = Manifest.load(folder)
    if manifest.n_sequences is None:
        return "text"
    shards = sum("resid_post/c/" in name for name in manifest.files)
    if shards < manifest.layout.n_shards * len(manifest.layers):
        return "shards"
    return "complete" if manifest.root else "statistics"


def main(folder: Path, seed: int, n_kills: int) -> None:
    torch.set_num_threads(1)
    store.manifest.SHARD_BYTES = 0
    model = ModelConfig("tiny/gemma2", str(folder / "tiny-gemma2-3x32-seed0"), dtype="float32")
    text = CorpusConfig(str(write_corpus(folder / "text.jsonl", 10, seed)))
    in_child(lambda: tiny_model_folder(folder))  # in a child, for the tokenizer's trainer starts threads

    def run(place: Path) -> None:
        harvest(place, STORED, model, text)

    def counted() -> None:
        calls = die_at(0)
        run(folder / "undisturbed")
        (folder / "calls").write_text(str(calls()))

    begun = time.monotonic()
    in_child(counted)
    duration, calls = time.monotonic() - begun, int((folder / "calls").read_text())
    undisturbed = content(folder / "undisturbed")
    draw = random.Random(seed)
    place, kills = folder / "store", 0
    for attempt in itertools.count():
        share = (kills + draw.random()) / n_kills  # spread over the whole way
        if attempt % 2:
            killed = in_child(lambda: run(place), kill_after=share * duration)
        else:
            killed = in_child(lambda: (die_at(1 + int(share * calls)), run(place)))  # noqa: B023
        kills += killed
        print(json.dumps({"killed": killed, "in": phase(place)}), flush=True)
        if killed and attempt % 3 == 1 and kills < n_kills:
            continue  # the next kill hits the harvest that resumes
        in_child(lambda: run(place))
        print(json.dumps({"equal": content(place) == undisturbed}), flush=True)
        if kills >= n_kills:
            break
        shutil.rmtree(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
