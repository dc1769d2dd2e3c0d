"""Harvest tokens/s beside the bare truncated model and SAELens's caching runner, in one process, on the current
profile's model and text.

    python -m bench.harvest [--compiled] [--rounds 5] [--tokens 16384]

`bare` runs the truncated model over the same rows at its best batch size and throws the activations away;
`harvest` is the whole stage: forward pass, rounding, hashing, writing, syncing. `saelens` is `CacheActivationsRunner`
with the same weights in a HookedTransformer, which stops after the layer, unshuffled, at the batch size that is best
for the bare model. Rounds alternate; ratios are taken round by round and their medians reported. Compilation happens
before the first round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

from bench.machine import record
from pipeline.params import Profile, read_params
from stages.harvest.activations import harvest_shards
from stages.harvest.plan import HarvestPlan, decide
from stages.harvest.sequences import packed, write_sequences
from stages.language_model.config import CorpusConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.runner import LayerRunner
from store import StoreSpec, StoreWriter
from store.layout import hook_name
from store.progress import SILENT

ROOT = Path(__file__).parents[1]
BATCHES = (4, 8, 16, 32)
SAELENS_BATCHES = 4
"""Forward passes in a buffer of SAELens; a file is written for each."""


def rows_of(profile: Profile, lm: LanguageModel, tokens: int) -> torch.Tensor:
    """The first packed rows of the corpus."""
    text = CorpusConfig(profile.corpus.source, profile.corpus.text_column, tokens)
    blocks = [block.tokens for block in packed(lm, text, profile.harvest)]
    return torch.from_numpy(np.concatenate(blocks).astype(np.int64))


def bare(runner: LayerRunner, rows: torch.Tensor, size: int) -> float:
    """Tokens/s of forward passes alone."""
    whole = len(rows) // size * size
    begun = time.perf_counter()
    for start in range(0, whole, size):
        runner(rows[start : start + size])
    return whole * rows.shape[1] / (time.perf_counter() - begun)


def whole(profile: Profile, lm: LanguageModel, runner: LayerRunner, plan: HarvestPlan, tokens: int) -> float:
    """Tokens/s of the harvest's loop, into a new store."""
    text = CorpusConfig(profile.corpus.source, profile.corpus.text_column, tokens)
    layers = dict.fromkeys(profile.harvest.layer_list, lm.d_model)
    spec = StoreSpec({"bench": "harvest"}, profile.harvest.context, profile.harvest.dtype, layers)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder, StoreWriter.open(Path(folder) / "store", spec) as writer:
        write_sequences(writer, lm, text, profile.harvest, SILENT)
        assert writer.n_sequences is not None
        begun = time.perf_counter()
        harvest_shards(writer, runner, profile.harvest, plan, SILENT)
        return writer.n_sequences * profile.harvest.context / (time.perf_counter() - begun)


def spread(ratios: list[float]) -> dict[str, float]:
    """Median and range."""
    of = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: round(value, 3) for name, value in of.items()}


def saelens(profile: Profile, lm: LanguageModel, rows: torch.Tensor, size: int) -> Callable[[], float]:
    """Tokens/s of SAELens caching the same rows; its model is loaded once."""
    (layer,) = profile.harvest.layer_list
    dataset = Dataset.from_dict({"tokens": rows.tolist()})
    kwargs = {"hf_model": lm.model, "tokenizer": lm.tokenizer, "dtype": lm.dtype}

    def run() -> float:
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            config = CacheActivationsRunnerConfig(
                dataset_path="",
                model_name=profile.model.name,
                model_batch_size=size,
                hook_name=hook_name(layer),
                d_in=lm.d_model,
                training_tokens=rows.numel(),
                context_size=rows.shape[1],
                new_cached_activations_path=folder,
                shuffle=False,
                dtype="float32",
                buffer_size_gb=SAELENS_BATCHES * size * rows.shape[1] * lm.d_model * 4 / 1e9,
                streaming=False,
                prepend_bos=False,
                model_from_pretrained_kwargs=kwargs,
            )
            runner = CacheActivationsRunner(config, override_dataset=dataset)
            begun = time.perf_counter()
            cached = runner.run()
            return len(cached) * rows.shape[1] / (time.perf_counter() - begun)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16_384)
    arguments = parser.parse_args()
    profile = read_params(ROOT).profile
    lm = load(profile.model)
    rows = rows_of(profile, lm, arguments.tokens)
    eager = LayerRunner(lm, profile.harvest.layer_list, compile=False)
    by_batch = {size: max(bare(eager, rows[: max(BATCHES)], size) for _ in range(2)) for size in BATCHES}
    best = max(by_batch, key=lambda size: by_batch[size])
    runner = LayerRunner(lm, profile.harvest.layer_list, compile=True) if arguments.compiled else eager
    plan, _ = decide(profile.harvest, lm, 0)
    begun = time.perf_counter()
    runner(rows[: plan.batch_rows])
    first_batch = time.perf_counter() - begun
    peer = saelens(profile, lm, rows, best)
    rounds = [
        (bare(eager, rows, best), whole(profile, lm, runner, plan, arguments.tokens), peer())
        for _ in range(arguments.rounds)
    ]
    record(
        "harvest-compiled" if arguments.compiled else "harvest-eager",
        {
            "model": profile.model.name,
            "layer": profile.harvest.layers,
            "tokens": rows.numel(),
            "rounds": arguments.rounds,
            "bare_tokens_per_second_by_batch": {str(k): round(v) for k, v in by_batch.items()},
            "bare_best_batch": best,
            "bare_tokens_per_second": round(statistics.median(alone for alone, _, _ in rounds)),
            "harvest_tokens_per_second": round(statistics.median(ours for _, ours, _ in rounds)),
            "saelens_tokens_per_second": round(statistics.median(theirs for _, _, theirs in rounds)),
            "over_bare": spread([ours / alone for alone, ours, _ in rounds]),
            "over_saelens": spread([ours / theirs for _, ours, theirs in rounds]),
            "first_batch_seconds": round(first_batch, 1),
        },
    )


if __name__ == "__main__":
    main()
