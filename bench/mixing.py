"""How well batches of shuffled windows mix, beside batches of shuffled tokens.

    python -m bench.mixing [--batches 200]

Tokens of one document resemble each other, so a batch of 16 windows tells less about the corpus than as many tokens
drawn one by one. Measured on the current profile's store, its deepest layer: the variance of a batch's mean
activation over that of as many tokens drawn independently (1 is perfect mixing; tokens divided by it is what a batch is
worth in independent tokens), the cosine of two centred tokens of a batch, and the documents in a batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import store
from bench.machine import record
from pipeline.params import read_params
from pipeline.paths import Project
from store import ActivationStore

ROOT = Path(__file__).parents[1]
Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Number of a batch -> its kept tokens [n, d] as float32, centred, and their documents [n]."""


def of_windows(opened: ActivationStore, layer: int, rows: int, mean: Tensor) -> Batch:
    """What training reads."""
    windows = opened.windows(layer, "train", rows)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        read = windows.batch(number)
        kept = read.document >= 0
        return read.x[kept].float() - mean, read.document[kept]

    return batch


def of_tokens(opened: ActivationStore, layer: int, n: int, mean: Tensor) -> Batch:
    """Kept tokens of the train split in random order."""
    rows = opened.rows("train")
    document = torch.from_numpy(opened.document(rows))
    row, position = (document >= 0).nonzero(as_tuple=True)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(row)))

    def batch(number: int) -> tuple[Tensor, Tensor]:
        chosen = order[number * n : (number + 1) * n]
        places = zip(rows[row[chosen].numpy()].tolist(), position[chosen].tolist(), strict=True)
        x = torch.stack([opened.window(layer, r)[p] for r, p in places]).float()
        return x - mean, document[row[chosen], position[chosen]]

    return batch


def measure(batch: Batch, batches: int, variance: float) -> dict[str, float]:
    """Variance of the batch mean against independent tokens, mean cosine of two tokens, documents a batch."""
    squares, cosines, documents, tokens = [], [], [], []
    for number in range(batches):
        x, document = batch(number)
        n = len(x)
        squares.append(float(x.mean(0).square().sum()) * n / variance)
        unit = torch.nn.functional.normalize(x, dim=1)
        cosines.append((float(unit.sum(0).square().sum()) - n) / (n * (n - 1)))
        documents.append(len(document.unique()))
        tokens.append(n)
    inflation = float(np.mean(squares))
    return {
        "variance_of_mean_over_independent": round(inflation, 2),
        "standard_error": round(float(np.std(squares, ddof=1)) / batches**0.5, 2),
        "tokens": round(float(np.mean(tokens))),
        "worth_independent_tokens": round(float(np.mean(tokens)) / inflation),
        "mean_cosine": round(float(np.mean(cosines)), 5),
        "documents": round(float(np.mean(documents)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=200)
    arguments = parser.parse_args()
    profile = read_params(ROOT).profile
    opened = store.open(Project(ROOT).store(profile))
    layer, rows = max(opened.layers), profile.train.batch_rows
    statistics = opened.statistics(layer)
    mean, variance = torch.tensor(statistics.mean).float(), float(statistics.variance.sum())
    windows = measure(of_windows(opened, layer, rows, mean), arguments.batches, variance)
    tokens = measure(of_tokens(opened, layer, windows["tokens"], mean), arguments.batches, variance)
    record("mixing", {"layer": layer, "batches": arguments.batches, "windows": windows, "shuffled_tokens": tokens})


if __name__ == "__main__":
    main()
