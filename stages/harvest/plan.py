"""The execution plan: everything about *how* a harvest runs that its bytes depend on.

Decided once, written into the manifest before the first shard and reused by every resume. bf16
activations depend on the attention implementation, on eager or compiled code and on a batch of one
against many (0.5 % relative), so a machine that cannot follow the plan refuses to append.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from stages.harvest.config import HarvestConfig
from stages.language_model.model import LanguageModel
from stages.precision import can_compile, cpu_capability
from store.files import canonical_json
from store.problem import Problem

COMPILE_FROM_TOKENS = 200_000
"""Compiling costs 20 to 40 s, so a shorter job is done sooner without it."""


@dataclass(frozen=True)
class HarvestPlan:
    """How the forward passes run. Two harvests with one request and one plan agree to the bit."""

    compute_dtype: str
    """dtype of weights and activations in the forward pass."""

    attention: str
    """Attention implementation of transformers."""

    compiled: bool
    """torch.compile of the truncated model, or eager."""

    batch_rows: int
    """Sequences in a forward pass; a batch never straddles two shards."""

    threads: int
    """CPU threads of torch, in each process that computes."""

    device: str
    """cpu or cuda, with the device's name."""

    cpu: str
    """Instruction set that torch's CPU kernels use."""

    torch: str
    transformers: str
    """Library versions."""


def decide(
    config: HarvestConfig, lm: LanguageModel, tokens: int, threads: int | None = None
) -> tuple[HarvestPlan, str | None]:
    """The plan of this machine for a harvest of `tokens` positions, and a notice if it is not compiled
    although it is long enough. `threads` are torch's, as they are now unless given."""
    possible, reason = can_compile()
    long_enough = tokens >= COMPILE_FROM_TOKENS
    plan = HarvestPlan(
        compute_dtype=str(lm.dtype).removeprefix("torch."),
        attention=lm.attention,
        compiled=long_enough and possible,
        batch_rows=config.batch_rows,
        threads=threads or torch.get_num_threads(),
        **_machine(lm),
    )
    notice = f"not compiled, harvesting eagerly: {reason}" if long_enough and not possible else None
    return plan, notice


def follow(recorded: dict[str, Any], lm: LanguageModel) -> HarvestPlan:
    """The plan that an earlier run wrote down, once this machine is known to be able to follow it.

    Raises:
        Problem: naming every difference, if appending here would mix two kinds of numbers.
    """
    plan = _read_plan(recorded)
    here: dict[str, Any] = {
        **asdict(plan),
        **_machine(lm),
        "compute_dtype": str(lm.dtype).removeprefix("torch."),
        "attention": lm.attention,
    }
    if plan.compiled and not can_compile()[0]:
        here["compiled"] = False
    different = [name for name, value in recorded.items() if here[name] != value]
    if different:
        raise Problem(
            "This machine cannot continue the harvest as it was begun.",
            expected=", ".join(f"{name} {recorded[name]}" for name in different),
            found=", ".join(f"{name} {here[name]}" for name in different),
            do="finish it on a machine and with versions like the first, or delete the partial store and harvest again",
        )
    torch.set_num_threads(plan.threads)  # OpenMP counts for each calling thread: call this where the model runs
    return plan


def _read_plan(recorded: Mapping[str, Any]) -> HarvestPlan:
    """The plan in a manifest, which may hold anything."""
    try:
        plan = TypeAdapter(HarvestPlan).validate_json(canonical_json(recorded), strict=True)
    except ValidationError as error:
        raise Problem("The plan of this store is none of a harvest.", found=" ".join(str(error).split())) from None
    if asdict(plan) != recorded:
        raise Problem("The plan of this store is none of a harvest.", found=", ".join(recorded))
    return plan


def _machine(lm: LanguageModel) -> dict[str, str]:
    device = next(lm.model.parameters()).device
    name = f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {
        "device": name,
        "cpu": cpu_capability(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
