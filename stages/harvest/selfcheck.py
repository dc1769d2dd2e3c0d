"""The harvest's last act: run a few random sequences again and compare with what is on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.harvest.activations import batches
from stages.harvest.config import HarvestConfig
from stages.harvest.plan import HarvestPlan
from stages.harvest.storage import from_storage, to_storage
from stages.language_model.decoder import decoder_layers, hidden_states
from stages.language_model.model import LanguageModel
from stages.language_model.runner import LayerRunner
from store import PartialStore
from store.problem import Problem

SEQUENCES = 4
"""Sequences that are checked: about 2 s of forward passes on two cores."""

TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 2e-2}
"""Largest `|stored - unbatched| / |unbatched|` of a token, by the coarser of compute and storage dtype."""


@dataclass(frozen=True)
class SelfCheck:
    """What the comparison saw."""

    sequences: list[int]
    """Row numbers that were run again."""

    worst_unbatched: float
    """Largest relative difference of a token against the unmodified model, one sequence at a time."""

    tolerance: float
    """What was allowed."""


def self_check(
    store: PartialStore,
    lm: LanguageModel,
    runner: LayerRunner,
    config: HarvestConfig,
    plan: HarvestPlan,
) -> SelfCheck:
    """Compare stored sequences with a second run: equal to the bit in the same batch, and close to
    the unmodified model run on the sequence alone.

    Raises:
        Problem: naming the sequence and layer, if they differ.
    """
    assert store.n_sequences is not None
    seed = int(store.fingerprint[:16], 16)
    count = min(SEQUENCES, store.n_sequences)
    rows = np.sort(np.random.default_rng(seed).choice(store.n_sequences, count, replace=False))
    coarser = max(plan.compute_dtype, config.dtype, key=lambda name: TOLERANCE[name])
    worst = 0.0
    for row in rows.tolist():
        shard = next(s for s in range(store.n_shards) if row in store.shard_rows(s))
        place = row - store.shard_rows(shard).start
        tokens = store.tokens(shard)
        again = _same_batch(runner, tokens, place, plan, config)
        alone = _unbatched(lm, tokens[place], config.layer_list)
        for layer in config.layer_list:
            stored = store.stored(layer, row)
            if not np.array_equal(stored, again[layer]):
                raise _differs(row, layer, "equal to the bit in the same batch", "other bits")
            difference = _relative(from_storage(stored, config.dtype), alone[layer])
            worst = max(worst, difference)
            if not difference <= TOLERANCE[coarser]:
                raise _differs(
                    row,
                    layer,
                    f"within {TOLERANCE[coarser]:g} of the unmodified model, relative, a token",
                    f"{difference:.3g}",
                )
    return SelfCheck(rows.tolist(), worst, TOLERANCE[coarser])


def _same_batch(
    runner: LayerRunner,
    tokens: Int[np.ndarray, "rows context"],
    place: int,
    plan: HarvestPlan,
    config: HarvestConfig,
) -> dict[int, np.ndarray]:
    """The row once more, in the batch that it was harvested in."""
    for rows, block in batches(tokens, plan.batch_rows):
        if rows.start <= place < rows.stop:
            out = runner(block)
            return {layer: to_storage(x[place - rows.start], config.dtype) for layer, x in out.items()}
    raise IndexError(place)


def _unbatched(
    lm: LanguageModel, tokens: Int[np.ndarray, " context"], layers: list[int]
) -> dict[int, Float[Tensor, "context d"]]:
    """The row alone through the unmodified model, every layer of it, caught by forward hooks."""
    caught: dict[int, Tensor] = {}

    def catch(layer: int) -> Callable[[object, object, object], None]:
        def hook(_module: object, _inputs: object, output: object) -> None:
            caught[layer] = hidden_states(output)[0]

        return hook

    blocks = decoder_layers(lm.model)
    handles = [blocks[layer].register_forward_hook(catch(layer)) for layer in layers]
    try:
        with torch.inference_mode():
            ids = torch.from_numpy(tokens.astype(np.int64))[None].to(next(lm.model.parameters()).device)
            lm.model.base_model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return caught


def _relative(stored: Float[Tensor, "context d"], reference: Float[Tensor, "context d"]) -> float:
    """Largest relative difference of a token."""
    reference = reference.double().cpu()
    difference = (stored.double() - reference).norm(dim=-1) / reference.norm(dim=-1).clamp_min(1e-30)
    return float(difference.max())


def _differs(row: int, layer: int, expected: str, found: str) -> Problem:
    return Problem(
        f"The self-check failed: sequence {row} at layer {layer} is not what the model gives.",
        expected=expected,
        found=found,
        do="the store stays partial; delete it and harvest again, and report the model and versions if "
        "it happens twice",
    )
