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
"""Largest root mean square over a sequence's tokens of `|stored - unbatched| / |unbatched|`, by the coarser of compute
and storage dtype. In bfloat16 Gemma 3 270M compiled and as it is are 8e-3 apart, and each 5e-3 from float32."""

ONE_TOKEN = 10
"""By how much a single token may exceed that. Rounding has a long tail: of 3,072 tokens one was 5.4e-2 apart; a token
of another text is about 5e-1."""


@dataclass(frozen=True)
class SelfCheck:
    """What the comparison saw."""

    sequences: list[int]
    """Row numbers that were run again."""

    worst_sequence: float
    """Largest root mean square over a sequence of its tokens' relative differences from the unmodified model."""

    worst_token: float
    """Largest of these differences."""

    tolerance: float
    """What was allowed of a sequence."""


def self_check(
    store: PartialStore,
    lm: LanguageModel,
    runner: LayerRunner,
    config: HarvestConfig,
    plan: HarvestPlan,
) -> SelfCheck:
    """Compare stored sequences with a second run: equal to the bit in the same batch, and close to
    the unmodified model run on the sequence alone, on the whole and token by token.

    Raises:
        Problem: naming the sequence and layer, if they differ.
    """
    assert store.n_sequences is not None
    seed = int(store.fingerprint[:16], 16)
    count = min(SEQUENCES, store.n_sequences)
    rows = np.sort(np.random.default_rng(seed).choice(store.n_sequences, count, replace=False))
    tolerance = max(TOLERANCE[plan.compute_dtype], TOLERANCE[config.dtype])
    worst_sequence, worst_token = 0.0, 0.0
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
            differences = _relative(from_storage(stored, config.dtype), alone[layer])
            sequence, token = float(differences.square().mean().sqrt()), float(differences.max())
            if not (sequence <= tolerance and token <= ONE_TOKEN * tolerance):
                raise _differs(
                    row,
                    layer,
                    f"within {tolerance:g} of the unmodified model, relative, and {ONE_TOKEN * tolerance:g} a token",
                    f"{sequence:.3g}, and {token:.3g} at position {int(differences.argmax())}",
                )
            worst_sequence, worst_token = max(worst_sequence, sequence), max(worst_token, token)
    return SelfCheck(rows.tolist(), worst_sequence, worst_token, tolerance)


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


def _relative(stored: Float[Tensor, "context d"], reference: Float[Tensor, "context d"]) -> Float[Tensor, " context"]:
    """Relative difference of each token."""
    reference = reference.double().cpu()
    return (stored.double() - reference).norm(dim=-1) / reference.norm(dim=-1).clamp_min(1e-30)


def _differs(row: int, layer: int, expected: str, found: str) -> Problem:
    return Problem(
        f"The self-check failed: sequence {row} at layer {layer} is not what the model gives.",
        expected=expected,
        found=found,
        do="the store stays partial; delete it and harvest again, and report the model and versions if "
        "it happens twice",
    )
