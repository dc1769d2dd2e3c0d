"""Rows of tokens -> shards of activations, the forward pass and the disk at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Int

from stages.harvest.config import HarvestConfig
from stages.harvest.plan import HarvestPlan
from stages.harvest.storage import to_storage
from stages.language_model.runner import LayerRunner
from store import PartialStore, StoreWriter
from store.progress import Progress


def batches(tokens: Int[np.ndarray, "rows context"], size: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Cut a shard's rows into forward passes of exactly `size` rows.

    The last one is filled with copies of its first row, whose outputs nobody keeps: every pass has
    one shape (nothing recompiles) and a row's batch is a function of its place in the shard alone.
    """
    for start in range(0, len(tokens), size):
        rows = slice(start, min(start + size, len(tokens)))
        block = tokens[rows]
        filling = np.repeat(block[:1], size - len(block), axis=0)
        yield rows, torch.from_numpy(np.concatenate([block, filling]).astype(np.int64))


def warm_up(runner: LayerRunner, store: PartialStore, plan: HarvestPlan) -> None:
    """Run one batch for nothing, so that compilation is over before the clock of the harvest starts."""
    _, block = next(batches(store.tokens(0), plan.batch_rows))
    runner(block)


def start_bar(writer: StoreWriter, config: HarvestConfig, progress: Progress) -> None:
    """Tell how many positions there are, and how many of them an earlier run did."""
    assert writer.n_sequences is not None
    total = writer.n_sequences * config.context
    progress.start("harvest", total, "tokens", done=total - missing_tokens(writer, config))


def missing_tokens(writer: StoreWriter, config: HarvestConfig) -> int:
    """Positions whose activations are not written yet."""
    return sum(len(writer.shard_rows(shard)) for shard in writer.missing_shards()) * config.context


def harvest_shard(
    tokens: Int[np.ndarray, "rows context"],
    runner: LayerRunner,
    config: HarvestConfig,
    plan: HarvestPlan,
    progress: Progress,
) -> dict[int, np.ndarray]:
    """Activations of one shard, whose tokens these are, by layer: `[rows, context, d]` in storage dtype."""
    payload: dict[int, np.ndarray] = {}
    for rows, block in batches(tokens, plan.batch_rows):
        kept = rows.stop - rows.start
        for layer, x in runner(block).items():
            values = to_storage(x[:kept], config.dtype)
            if layer not in payload:
                payload[layer] = np.empty((len(tokens), *values.shape[1:]), values.dtype)
            payload[layer][rows] = values
        progress.advance(kept * tokens.shape[1])
    return payload


def harvest_shards(
    writer: StoreWriter,
    runner: LayerRunner,
    config: HarvestConfig,
    plan: HarvestPlan,
    progress: Progress,
) -> None:
    """Fill every missing shard in order. A background thread hashes, writes and syncs shard i while
    shard i + 1 is computed; at most two shards are in memory, however many tokens there are."""
    pending: Future[None] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-writer") as disk:
        for shard in writer.missing_shards():
            payload = harvest_shard(writer.tokens(shard), runner, config, plan, progress)
            if pending is not None:
                pending.result()
            pending = disk.submit(writer.write_shard, shard, payload)
        if pending is not None:
            pending.result()
