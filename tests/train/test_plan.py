"""What cannot work is refused before the first step."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import store
from stages.sae import Variant, load_variants
from stages.sae.objective_row import PruningRow
from stages.train import TrainSizes, check_plan, make_config, train
from stages.train.plan import SCHEDULED_SHARE, make_plan
from stages.train.schedule import ends_of_schedules
from stages.train.trainer import following
from store.problem import Problem
from tests.train import small

ROWS = load_variants(small.TABLE)


def with_objective(name: str, lengths: tuple[int, ...] = (), **parts: Any) -> Variant:
    row = small.variant(name)
    batches = replace(row.batches, lengths=lengths)
    return replace(row, objective=replace(row.objective, **parts), batches=batches)


def with_lags(name: str, first: int, last: int, lengths: tuple[int, ...]) -> Variant:
    temporal = ROWS[name].objective.temporal
    assert temporal is not None
    scales = (replace(temporal.scales[0], lags=(first, last)),)
    return with_objective(name, lengths, temporal=replace(temporal, scales=scales, delay=0, ramp=3))


PRUNED_LATE = with_objective("topk", pruning=PruningRow(at=(0.2, 0.99), density=0.1))

REFUSED = [
    ({"row": small.variant(warmup=30)}, "warmup of 30 steps would never end", "at least 39 steps"),
    ({"row": small.variant(warmup=24)}, "would take more than 75%", "at least 31 steps"),
    ({"row": small.variant("baseline", l1_warmup=1000)}, "objective.l1_warmup", "at least 1333 steps"),
    ({"k": 33}, "k is above d_sae", "at most d_sae = 32"),
    ({"row": load_variants(small.TABLE)["multiscale"], "steps": 2}, "would never end", "steps"),
    ({"steps": 0}, "steps is too small", "at least 1"),
    ({"d_sae": 0}, "d_sae is too small", "at least 1"),
    ({"seed": 2**63}, "seed is out of range", f"0 to {2**63 - 1}"),
    ({"row": PRUNED_LATE}, "pruning takes more than 75% of the steps", "at most"),
    ({"row": with_lags("window3", 3, 9, (3, 12))}, "would see no pairs in the windows of 3 tokens", "more than 3"),
]


@pytest.mark.parametrize(("numbers", "what", "expected"), REFUSED)
def test_impossible_numbers_are_wrong_usage(
    numbers: dict[str, Any], what: str, expected: str, activations: store.ActivationStore, tmp_path: Path
) -> None:
    with pytest.raises(Problem, match=what) as refusal:
        train(small.config(**numbers), activations, small.LAYER, tmp_path / "run")
    assert expected in str(refusal.value.expected)
    assert refusal.value.exit_status == 2
    assert not (tmp_path / "run").exists()


def test_windows_that_are_long_enough_for_a_lag(activations: store.ActivationStore) -> None:
    check_plan(small.config(with_lags("window3", 3, 9, (4, 12))), activations, small.LAYER)


def test_the_steps_that_a_refusal_names_are_enough(activations: store.ActivationStore) -> None:
    row = small.variant(warmup=24)
    check_plan(small.config(row, steps=31), activations, small.LAYER)
    with pytest.raises(Problem):
        check_plan(small.config(row, steps=30), activations, small.LAYER)


def test_no_row_minds_a_number_of_steps_that_its_shares_do_not_divide(activations: store.ActivationStore) -> None:
    for name, row in load_variants(small.TABLE).items():
        for steps in range(8000, 8004):
            ends = ends_of_schedules(row, steps)
            assert max(ends.values()) <= math.ceil(SCHEDULED_SHARE * steps), (name, steps, ends)


def test_k_does_not_matter_without_topk(activations: store.ActivationStore) -> None:
    check_plan(small.config(small.variant("baseline"), k=33), activations, small.LAYER)


def test_layer_that_the_store_lacks(activations: store.ActivationStore) -> None:
    with pytest.raises(Problem, match="no layer 4") as refusal:
        check_plan(small.config(), activations, 4)
    assert refusal.value.exit_status == 2


def test_split_smaller_than_a_batch(activations: store.ActivationStore) -> None:
    with pytest.raises(Problem, match="smaller than a batch") as refusal:
        check_plan(small.config(batch_rows=33), activations, small.LAYER)
    assert refusal.value.found == 32


def test_activations_without_variance_are_refused(tmp_path: Path) -> None:
    constant = np.full((40, small.CONTEXT, small.D), 3.0, np.float32)
    degenerate = small.make_store(tmp_path / "store", activations=constant)
    with pytest.raises(Problem, match="degenerate"):
        check_plan(small.config(), degenerate, small.LAYER)


def test_sizes_of_a_profile_make_a_configuration() -> None:
    sizes = TrainSizes(d_sae=64, k=8, batch_rows=16, steps=4000)
    config = make_config(small.variant(), sizes, seed=2)
    assert (config.seed, config.steps, config.d_sae, config.k) == (2, 4000, 64, 8)
    assert make_config(small.variant(), sizes, seed=2, steps=8000).steps == 8000


def test_another_gpu_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    plan = replace(make_plan(30, 48), gpu="another one")
    with pytest.raises(Problem, match="cannot follow the plan") as refusal:
        plan.check_machine(tmp_path)
    assert refusal.value.expected == "gpu another one"


def test_sums_on_a_gpu_have_one_order_while_a_plan_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    plan = make_plan(30, 48)
    for device, mode in (("cpu", 0), ("cuda", 1)):
        with following(replace(plan, device=device)):
            assert torch.get_deterministic_debug_mode() == mode
            assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (device == "cuda")
        assert torch.get_deterministic_debug_mode() == 0
