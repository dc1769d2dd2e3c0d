"""Whole small trainings: they learn, they count their steps, they see kept tokens only, they stay offline."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import store
from stages.sae import load
from stages.train import train
from stages.train.metrics import MetricsLog
from stages.train.plan import make_plan
from stages.train.trainer import Trainer
from tests.train import small


@pytest.mark.parametrize(("kind", "least"), [("topk", 0.7), ("baseline", 0.85)])
def test_training_explains_the_activations_on_heldout_rows(
    kind: str, least: float, activations: store.ActivationStore, tmp_path: Path
) -> None:
    config = small.config(small.variant(kind, lr=3e-3), steps=300)
    result = train(config, activations, small.LAYER, tmp_path / "run")
    sae = load(tmp_path / "run" / "sae").requires_grad_(False)
    rows = activations.rows("heldout")
    keep = activations.document(rows) >= 0
    x = activations.read(small.LAYER, rows)[torch.from_numpy(keep)].double()
    error = x - sae(x.float()).double()
    mean = torch.tensor(activations.statistics(small.LAYER).mean)
    explained = 1 - (error**2).sum() / ((x - mean) ** 2).sum()
    assert explained > least
    assert result.training["steps_done"] == result.training["steps_planned"] == 300
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(config.d_sae))


def test_the_loop_counts_steps_and_kept_tokens(activations: store.ActivationStore, tmp_path: Path) -> None:
    config = small.config(steps=30)
    windows = activations.windows(small.LAYER, "train", config.batch_rows, config.seed)
    assert windows.batches_per_epoch < 30, "the loop must go on where an iterator over the data would run dry"
    result = train(config, activations, small.LAYER, tmp_path / "run")
    kept = sum(int((windows.batch(step).document >= 0).sum()) for step in range(30))
    assert result.training["tokens"] == kept
    assert result.did == "trained"


@pytest.mark.parametrize("kind", ["topk", "baseline"])
@pytest.mark.parametrize("special", [-1e6, float("nan")])
def test_bos_and_padding_change_nothing(
    kind: str, special: float, activations: store.ActivationStore, tmp_path: Path
) -> None:
    """Whatever stands at positions without a document, every bit of the result is the same."""

    class Changed:
        def __getattr__(self, name: str) -> Any:
            return getattr(activations, name)

        def windows(self, *arguments: Any) -> Any:
            windows = activations.windows(*arguments)
            read = windows.batch

            def batch(step: int) -> Any:
                batch = read(step)
                batch.x[batch.document < 0] = special
                return batch

            windows.batch = batch  # type: ignore[method-assign]
            return windows

    config = small.killed_config(kind)
    plain = train(config, activations, small.LAYER, tmp_path / "plain")
    changed = train(config, Changed(), small.LAYER, tmp_path / "changed")  # type: ignore[arg-type]
    assert changed.training == plain.training
    assert changed.training["files"] == plain.training["files"]


def test_another_order_of_kept_tokens_does_change_something(activations: store.ActivationStore, tmp_path: Path) -> None:
    """The counterpart of the test above: it can fail."""
    first = train(small.config(seed=0), activations, small.LAYER, tmp_path / "0")
    second = train(small.config(seed=1), activations, small.LAYER, tmp_path / "1")
    assert first.training["files"] != second.training["files"]


def test_what_is_written_does_not_vary(activations: store.ActivationStore, tmp_path: Path) -> None:
    """No clock, path or host in anything but the file of rates beside the run."""
    for name in ("one", "other"):
        train(small.config(), activations, small.LAYER, tmp_path / name)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes()
    assert json.loads((tmp_path / "one.run.json").read_text())["steps"] == 30


def test_products_in_bfloat16_keep_parameters_in_float32(activations: store.ActivationStore) -> None:
    config = small.config(small.variant("baseline"))
    statistics = activations.statistics(small.LAYER)
    trained = {}
    for products in ("float32", "bfloat16"):
        plan = make_plan(30, 48)
        plan = type(plan)(**{**vars(plan), "products": products})
        normalisation = small.normalisation(statistics)
        trainer = Trainer(config, plan, normalisation, small.CONTEXT)
        windows = activations.windows(small.LAYER, "train", 4, 0)
        metrics = [trainer.step(step, windows.batch(step), measured=True) for step in range(5)]
        assert all(parameter.dtype == torch.float32 for parameter in trainer.sae.parameters())
        trained[products] = metrics[-1]["loss/total"]
    assert trained["bfloat16"] != trained["float32"]
    assert trained["bfloat16"] == pytest.approx(trained["float32"], rel=2e-2)


def test_metrics_say_what_they_measure(activations: store.ActivationStore) -> None:
    config = small.config(small.variant("baseline"))
    trainer = Trainer(
        config, make_plan(30, 48), small.normalisation(activations.statistics(small.LAYER)), small.CONTEXT
    )
    windows = activations.windows(small.LAYER, "train", 4, 0).batch(0)
    batch = trainer.batch(0, windows)
    with torch.no_grad():
        codes = trainer.sae.encode(batch.x)[batch.keep]
        error = (batch.x - trainer.sae(batch.x))[batch.keep]
        kept = batch.x[batch.keep]
    metrics = trainer.step(0, windows, measured=True)
    assert metrics["l0"] == pytest.approx(float((codes > 0).sum(-1).double().mean()))
    assert metrics["loss/reconstruction"] == pytest.approx(float((error**2).sum(-1).mean()), rel=1e-5)
    assert metrics["explained_variance"] == pytest.approx(float(1 - (error**2).sum() / (kept**2).sum()), rel=1e-4)
    assert metrics["loss/total"] == pytest.approx(metrics["loss/reconstruction"] + metrics["loss/l1"])


def test_log_needs_neither_network_nor_git(
    activations: store.ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"network or process: {arguments}")

    monkeypatch.setenv("DVC_STUDIO_TOKEN", "token")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("dvclive.live.get_dvc_repo", refuse)
    train(small.config(), activations, small.LAYER, tmp_path / "run")
    files = {path.name for path in (tmp_path / "run" / "metrics").rglob("*.tsv")}
    assert {
        "total.tsv",
        "reconstruction.tsv",
        "l0.tsv",
        "explained_variance.tsv",
        "dead_latents.tsv",
    } <= files
    assert not list((tmp_path / "run").rglob("dvc.yaml"))


def test_log_keeps_the_values_it_was_given(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics", 0)
    log.log(0, {"loss/total": 0.1, "l0": 3.0})
    log.log(10, {"loss/total": float(np.float32(1 / 3)), "l0": 4.0})
    assert log.latest() == {"loss/total": float(np.float32(1 / 3)), "l0": 4.0}
    again = MetricsLog(tmp_path / "metrics", 10)
    assert again.latest() == {"loss/total": 0.1, "l0": 3.0}
