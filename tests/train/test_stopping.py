"""Early stopping: never before all schedules have ended, and at the same step in a run that was resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import store
from stages.sae import Variant, load_variants
from stages.sae.objective_row import BoostRow, PruningRow
from stages.sae.training_row import NoiseRow, StoppingRow
from stages.train import TrainConfig, train
from tests.train import small
from tests.train.interrupt import content, forget, interrupted

TABLE = load_variants(small.TABLE)
STEPS = 50
"""More than any of these trainings does: one that came to its end untrained would be told that it had collapsed."""
TEMPORAL = TABLE["window3"].objective.temporal
assert TEMPORAL is not None


def hopeless(not_before: int, patience: int) -> Variant:
    """A row whose loss never falls, with a look every 5 steps. Its schedules end at step 3."""
    row = small.variant("baseline", lr=1e-12, warmup=3, l1_warmup=3)
    return replace(row, stopping=StoppingRow(every=5, patience=patience, not_before=not_before))


def config(row: Variant) -> TrainConfig:
    return small.config(row, steps=STEPS, checkpoint_every=9, log_every=8)


def looks(folder: Path) -> list[int]:
    """After how many steps a training looked at its held-out loss."""
    table = (folder / "metrics/plots/metrics/held_out_reconstruction.tsv").read_text().splitlines()
    return [int(line.split("\t")[0]) + 1 for line in table[1:]]


@pytest.mark.parametrize(
    ("part", "schedule", "first"),
    [
        ("optimizer", {}, 5),
        ("optimizer", {"warmup": 25}, 25),
        ("optimizer", {"noise": NoiseRow(0.01, 25)}, 25),
        ("objective", {"l1_warmup": 25}, 25),
        ("objective", {"reconstruction_boost": BoostRow(2.0, 15, 10)}, 25),
        ("objective", {"temporal": replace(TEMPORAL, delay=15, ramp=10)}, 25),
        ("objective", {"pruning": PruningRow((0.2, 0.5), 1e-9)}, 25),
        ("batches", {"lengths": (8, 12)}, 25),
    ],
)
def test_no_look_comes_before_a_schedule_that_ends_after_not_before(
    part: str, schedule: dict[str, Any], first: int, activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = hopeless(not_before=5, patience=2)
    row = replace(row, **{part: replace(getattr(row, part), **schedule)})
    result = train(config(row), activations, small.LAYER, tmp_path)
    assert looks(tmp_path) == [first, first + 5, first + 10]
    assert result.training["steps_done"] == first + 10
    assert result.training["stopped_by"] is not None


def test_no_look_comes_before_not_before(activations: store.ActivationStore, tmp_path: Path) -> None:
    train(config(hopeless(not_before=23, patience=2)), activations, small.LAYER, tmp_path)
    assert looks(tmp_path) == [25, 30, 35]


def whole_and_resumed(activations: store.ActivationStore, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a run leaves that looks after 10 to 30 steps, and what one does that went on at 18, one look without a new
    best behind it."""
    row = config(hopeless(not_before=10, patience=4))
    whole = train(row, activations, small.LAYER, folder / "whole")
    assert whole.training["steps_done"] == 30 and looks(folder / "whole") == [10, 15, 20, 25, 30]
    assert interrupted(row, activations, folder / "resumed", 22).step == 18
    assert train(row, activations, small.LAYER, folder / "resumed").first_step == 18
    return content(folder / "whole"), content(folder / "resumed")


def test_a_resumed_run_stops_where_the_whole_one_does(activations: store.ActivationStore, tmp_path: Path) -> None:
    whole, resumed = whole_and_resumed(activations, tmp_path)
    assert looks(tmp_path / "resumed") == looks(tmp_path / "whole")
    for name in ("training.json", "checkpoint.safetensors", "sae/sae_weights.safetensors"):
        assert resumed[name] == whole[name]


def test_every_file_of_a_resumed_run_that_stopped_early_is_that_of_the_whole_one(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    whole, resumed = whole_and_resumed(activations, tmp_path)
    assert resumed == whole


@pytest.mark.parametrize(("lost", "ends"), [("best", 40), ("waited", 35), ("", 40)])
def test_a_run_that_forgets_its_looks_stops_later(
    lost: str, ends: int, activations: store.ActivationStore, tmp_path: Path
) -> None:
    """The counterpart of the test above: it can fail."""
    row = config(hopeless(not_before=10, patience=4))
    before = interrupted(row, activations, tmp_path, 12)
    assert before.step == 9
    interrupted(row, activations, tmp_path, 13)
    forget(tmp_path, lambda name: name.startswith(f"stopping.{lost}"), before)
    assert train(row, activations, small.LAYER, tmp_path).training["steps_done"] == ends
