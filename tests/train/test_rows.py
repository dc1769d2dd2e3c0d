"""Every row of the table trains, resumes to the bit, and steps beside others as it does alone."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import store
from stages.sae import find_variant, load, load_variants
from stages.sae.architecture import AttentionRow, NormRow, PartsRow, ThresholdRow
from stages.sae.variant import Variant
from stages.train import Collapse, Run, TrainConfig, TrainResult, train, train_together
from stages.train.run import PLAN
from stages.train.trainer import Trainer
from store.files import write_json
from store.lock import Lock
from store.problem import Problem
from store.progress import SILENT
from tests.train import small
from tests.train.interrupt import Stop, StopAfter, content

TABLE = load_variants(small.TABLE)
NAMES = [name for name in TABLE if "+" not in name]
STEPS = 40


def config(row: Variant, steps: int = STEPS, **numbers: int) -> TrainConfig:
    return small.config(small.scaled(row, steps), steps=steps, **{"checkpoint_every": 9, "log_every": 8, **numbers})


def test_the_table_is_complete() -> None:
    seeds = [row for row in TABLE.values() if "seed" in row.source or row.source.startswith("001")]
    assert len([row for row in seeds if row.control is None]) == 21
    assert len(NAMES) == 28


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_row_ends_with_the_same_bits(
    name: str, activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = config(TABLE[name])
    whole = train(row, activations, small.LAYER, tmp_path / "whole")
    for steps in (14, 13):
        with pytest.raises(Stop):
            train(row, activations, small.LAYER, tmp_path / "stopped", StopAfter(steps))
    resumed = train(row, activations, small.LAYER, tmp_path / "stopped")
    assert resumed.did == "resumed and finished" and resumed.first_step == 18
    assert content(tmp_path / "whole") == content(tmp_path / "stopped")
    final = whole.training["final"]
    assert ("gradient/W_enc" in final) == ("not_finite" in final) == TABLE[name].instrumentation
    assert ("output/convolution_norm" in final) == bool(TABLE[name].instrumentation and TABLE[name].parts.convolution)
    assert final.get("not_finite", 0) == 0
    assert all(math.isfinite(value) for value in final.values())
    assert final["l0"] > 0.5 and final["explained_variance"] > 0
    rows = activations.rows("heldout")
    x, document = activations.read(small.LAYER, rows), torch.from_numpy(activations.document(rows))
    codes = load(tmp_path / "whole" / "sae").encoding(x, document).codes
    assert (codes.events.count() > 0).any() and codes.dense()[document >= 0].isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if TABLE[name].temporal])
def test_temporal_rows_depend_on_the_order_of_tokens(
    name: str, activations: store.ActivationStore, tmp_path: Path
) -> None:
    found = []
    for control in ("", "+permuted", "+no-temporal"):
        row = find_variant(TABLE, name + control)
        if row.objective.contrast is not None:  # its weight beside raw activations moves no bit in so few steps
            row = replace(row, objective=replace(row.objective, contrast=replace(row.objective.contrast, weight=0.1)))
            row = find_variant({name: replace(TABLE[name], objective=row.objective)}, name + control)
        train(config(row, steps=16), activations, small.LAYER, tmp_path / f"run{control}")
        found.append(load(tmp_path / f"run{control}" / "sae").W_dec)
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def runs(names: list[str], activations: store.ActivationStore, folder: Path) -> list[Run]:
    return [Run.of(config(TABLE[name]), activations, small.LAYER, folder / name) for name in names]


def test_rows_in_lockstep_end_as_they_do_alone(activations: store.ActivationStore, tmp_path: Path) -> None:
    names = ["topk", "warmup2000", "tsa-core", "multiscale", "persistent", "batchtopk"]
    for name in names:
        train(config(TABLE[name]), activations, small.LAYER, tmp_path / "alone" / name)
    with pytest.raises(Stop):
        train_together(runs(names[:3], activations, tmp_path / "together"), StopAfter(3 * 20))
    results = train_together(runs(names, activations, tmp_path / "together"))
    assert [result.first_step for result in results if isinstance(result, TrainResult)] == [18, 18, 18, 0, 0, 0]
    assert content(tmp_path / "together").keys() == content(tmp_path / "alone").keys()
    for name in names:
        assert {key: of for key, of in content(tmp_path / "together" / name).items()} == content(
            tmp_path / "alone" / name
        )
    again = train_together(runs(names, activations, tmp_path / "together"))
    assert all(isinstance(result, TrainResult) and result.did == "finished before" for result in again)


def test_a_row_that_fails_leaves_the_others_as_they_are(activations: store.ActivationStore, tmp_path: Path) -> None:
    row = small.scaled(TABLE["baseline"], STEPS)
    wild = replace(row, name="wild", optimizer=replace(row.optimizer, lr=1e30))
    members = [config(TABLE["topk"]), small.config(wild, steps=STEPS, guard_every=10), config(TABLE["warmup2000"])]
    together = [
        Run.of(member, activations, small.LAYER, tmp_path / "together" / member.variant.name) for member in members
    ]
    first, failed, last = train_together(together)
    assert isinstance(failed, Collapse) and "learning rate" in str(failed.do)
    assert isinstance(first, TrainResult) and isinstance(last, TrainResult)
    for member in (members[0], members[2]):
        name = member.variant.name
        train(member, activations, small.LAYER, tmp_path / "alone" / name)
        assert content(tmp_path / "together" / name) == content(tmp_path / "alone" / name)


def test_a_row_that_cannot_be_written_leaves_the_others_as_they_are(
    activations: store.ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Run.finish

    def full(run: Run, *arguments: Any) -> dict[str, Any]:
        if run.config.variant.name == "topk":
            raise OSError("no space left")
        return finish(run, *arguments)

    monkeypatch.setattr(Run, "finish", full)
    failed, other = train_together(runs(["topk", "baseline"], activations, tmp_path))
    assert isinstance(failed, OSError) and isinstance(other, TrainResult)
    monkeypatch.undo()
    assert train(config(TABLE["topk"]), activations, small.LAYER, tmp_path / "topk").did == "finished before"


def test_one_process_at_a_time_trains_a_row(activations: store.ActivationStore, tmp_path: Path) -> None:
    other = Lock(tmp_path / "topk", "training")
    done, locked = train_together(runs(["baseline", "topk"], activations, tmp_path))
    assert isinstance(done, TrainResult)
    assert isinstance(locked, Problem) and "Another process is writing this training" in str(locked)
    assert not (tmp_path / "topk").exists()
    other.release()
    results = train_together(runs(["baseline", "topk"], activations, tmp_path))
    assert [result.did for result in results if isinstance(result, TrainResult)] == ["finished before", "trained"]


def test_a_row_that_cannot_go_on_here_leaves_the_others_as_they_are(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    (elsewhere,) = runs(["topk"], activations, tmp_path)
    plan = elsewhere.prepare(True, SILENT)
    write_json(elsewhere.folder / PLAN, {"fingerprint": elsewhere.identity, "plan": {**asdict(plan), "torch": "0.1"}})
    failed, done = train_together(runs(["topk", "baseline"], activations, tmp_path))
    assert isinstance(failed, Problem) and "cannot follow the plan" in str(failed)
    assert isinstance(done, TrainResult)


def test_rows_in_lockstep_keep_the_threads_of_their_plans(
    activations: store.ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that were begun with different numbers of threads go on with these, side by side."""
    members, seen = runs(["topk", "baseline"], activations, tmp_path), []
    for threads, run in zip((1, 2), members, strict=True):
        torch.set_num_threads(threads)
        run.prepare(True, SILENT)
    torch.set_num_threads(1)
    step = Trainer.step

    def watched(trainer: Trainer, *arguments: Any, **named: Any) -> dict[str, float]:
        seen.append((trainer.row.name, torch.get_num_threads()))
        return step(trainer, *arguments, **named)

    monkeypatch.setattr(Trainer, "step", watched)
    train_together(members)
    assert set(seen) == {("topk", 1), ("baseline", 2)} and torch.get_num_threads() == 1


def test_lockstep_needs_the_same_windows(activations: store.ActivationStore, tmp_path: Path) -> None:
    one = Run.of(config(TABLE["topk"]), activations, small.LAYER, tmp_path / "0")
    other = Run.of(config(TABLE["topk"], seed=1), activations, small.LAYER, tmp_path / "1")
    with pytest.raises(ValueError, match="one store, layer, seed and batch size"):
        train_together([one, other])


SAME = [
    (name, changed, True)
    for name in ("baseline", "topk", "minimal-base", "tsa-stable")
    for changed in ("recompute", "")
]
"""Rows, what changes in their batches (nothing: instrumentation), and whether to the bit. Batch statistics and pairs
are those of a part, so only rows without them learn the same from accumulated gradients."""


@pytest.mark.parametrize(
    ("name", "changed", "exact"), [*SAME, ("baseline", "accumulate", False), ("topk", "accumulate", False)]
)
def test_how_batches_are_computed_does_not_change_what_is_learned(
    name: str, changed: str, exact: bool, activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = replace(small.scaled(TABLE[name], STEPS), name="row")
    batches = {"recompute": {"recompute": True}, "accumulate": {"accumulate": 2}, "": {}}[changed]
    other = replace(row, batches=replace(row.batches, **batches), instrumentation=not changed)  # type: ignore[arg-type]
    saes = []
    for index, each in enumerate((row, other)):
        train(small.config(each, steps=STEPS), activations, small.LAYER, tmp_path / str(index))
        saes.append(load(tmp_path / str(index) / "sae"))
    for (key, one), two in zip(saes[0].state_dict().items(), saes[1].state_dict().values(), strict=True):
        if exact:
            assert torch.equal(one, two), key
        else:
            torch.testing.assert_close(one, two, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["mtsae-debug", "mtsae-diagnostics"])
def test_instrumented_runs_of_003_are_its_run_2(name: str, activations: store.ActivationStore, tmp_path: Path) -> None:
    for each in (name, "mtsae-separation"):
        train(config(TABLE[each]), activations, small.LAYER, tmp_path / each)
    weights = "sae/sae_weights.safetensors"
    assert (tmp_path / name / weights).read_bytes() == (tmp_path / "mtsae-separation" / weights).read_bytes()


def test_early_stopping_waits_for_all_schedules(activations: store.ActivationStore, tmp_path: Path) -> None:
    row = small.scaled(TABLE["window3-accumulate"], STEPS)
    assert row.stopping is not None
    # Batch norm's running statistics would still move.
    hopeless = replace(row, optimizer=replace(row.optimizer, lr=1e-12), parts=PartsRow())
    result = train(small.config(hopeless, steps=STEPS), activations, small.LAYER, tmp_path / "run")
    assert result.training["steps_done"] == 20 < result.training["steps_planned"] == STEPS
    assert "2 looks" in result.training["stopped_by"] and "stopped by" in result.facts()
    again = train(small.config(hopeless, steps=STEPS), activations, small.LAYER, tmp_path / "run")
    assert again.did == "finished before"
    later = replace(hopeless, stopping=replace(row.stopping, not_before=25))
    result = train(small.config(later, steps=STEPS), activations, small.LAYER, tmp_path / "later")
    assert result.training["steps_done"] == 35


def test_thresholds_to_the_letter_collapse(activations: store.ActivationStore, tmp_path: Path) -> None:
    """0.1 in normalised units is 4.8 root mean squares of a pre-activation at 2,304 dimensions: nothing fires."""
    row = small.scaled(TABLE["tsa-core"], STEPS)
    literal = ThresholdRow(0.1 * (2304 / activations.layers[small.LAYER]) ** 0.5, 0.5, "normalised")
    row = replace(row, sparsifier=replace(row.sparsifier, threshold=literal))
    with pytest.raises(Collapse, match="activates") as death:
        train(small.config(row, steps=STEPS, guard_every=5), activations, small.LAYER, tmp_path / "run")
    assert str(death.value.do).startswith("threshold: the learned ones are ")


def test_layer_norm_of_codes_to_the_letter_makes_every_latent_active(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = small.scaled(TABLE["paper"], STEPS)
    literal = replace(row, parts=replace(row.parts, norm=NormRow("layer_of_codes")))
    with pytest.raises(Collapse, match="a token activates 32 of 32 latents"):
        train(small.config(literal, steps=STEPS, guard_every=5), activations, small.LAYER, tmp_path / "run")


def test_attention_at_random_loses_the_token(activations: store.ActivationStore, tmp_path: Path) -> None:
    row = small.scaled(TABLE["tsa-core"], STEPS)
    found = {}
    for initial in ("self", "random"):
        attention = AttentionRow(4, layer_norm=False, skip=False, initial=initial)  # type: ignore[arg-type]
        each = replace(row, parts=replace(row.parts, attention=attention))
        result = train(small.config(each, steps=STEPS), activations, small.LAYER, tmp_path / initial)
        found[initial] = result.training["final"]["explained_variance"]
    assert found["self"] > found["random"] + 0.2


def test_batch_norm_with_gain_one_starts_far_from_the_inputs(
    activations: store.ActivationStore, tmp_path: Path
) -> None:
    row, losses = small.scaled(TABLE["minimal-base"], STEPS), {}
    for gain in ("measured", "one"):
        each = replace(row, parts=PartsRow(norm=NormRow("batch", gain)))  # type: ignore[arg-type]
        run = tmp_path / gain
        with contextlib.suppress(Collapse):
            train(small.config(each, steps=STEPS, log_every=1), activations, small.LAYER, run)
        first = (run / "metrics/plots/metrics/loss/reconstruction.tsv").read_text().splitlines()[1]
        losses[gain] = float(first.split("\t")[1])
    assert losses["one"] > 4 * losses["measured"]
