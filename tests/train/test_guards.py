"""Runs that really die end with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import store
from stages.sae import Normalisation, Variant
from stages.train import Collapse, train
from stages.train.guards import CollapseGuard
from tests.train import small

HEALTHY = {
    "loss/total": 0.3,
    "grad_norm": 0.1,
    "l0": 4.0,
    "explained_variance": 0.8,
    "dead_latents": 0.0,
    "input_energy": 1.0,
    "encoder_bias": 0.0,
    "lr": 3e-4,
}


def collapse(row: Variant, activations: store.ActivationStore, folder: Path) -> Collapse:
    with pytest.raises(Collapse) as death:
        train(small.config(row, steps=200, guard_every=20), activations, small.LAYER, folder)
    assert not (folder / "training.json").exists()
    assert death.value.exit_status == 1
    return death.value


def test_l1_far_too_large(activations: store.ActivationStore, tmp_path: Path) -> None:
    death = collapse(small.variant("baseline", l1=10.0, lr=0.01, aux=0.0), activations, tmp_path / "run")
    assert "less than the mean does" in death.what
    assert str(death.do).startswith("L1: with weight 10 ")


def test_l1_that_silences_every_latent(activations: store.ActivationStore, tmp_path: Path) -> None:
    row = small.variant("baseline", l1=10.0, lr=0.05, aux=0.0, warmup=0, l1_warmup=0)
    death = collapse(row, activations, tmp_path / "run")
    assert "activates 0.0" in death.what
    assert str(death.do).startswith("L1: with weight 10 ")


def test_l1_far_too_small() -> None:
    guard = CollapseGuard(small.variant("baseline", l1=1e-6), 32, 1000)
    with pytest.raises(Collapse, match="17 of 32") as death:
        guard.check(50, {**HEALTHY, "l0": 17.0})
    assert str(death.value.do).startswith("L1: weight 1e-06 is too small")


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_wrong_scale(
    factor: float, activations: store.ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(mean: object, scale: float) -> Normalisation:
        return Normalisation(mean, scale * factor)  # type: ignore[arg-type]

    monkeypatch.setattr("stages.train.loop.Normalisation", wrong)
    death = collapse(small.variant("baseline"), activations, tmp_path / "run")
    assert "mean squared norm of the inputs" in death.what
    assert str(death.do).startswith("scale: ")


def test_learning_rate_far_too_large(activations: store.ActivationStore, tmp_path: Path) -> None:
    death = collapse(small.variant("topk", lr=3.0, clip=None), activations, tmp_path / "run")
    assert str(death.do).startswith("learning rate: ")


def test_activations_that_are_not_finite(tmp_path: Path, activations: store.ActivationStore) -> None:
    class Broken:
        """A store whose statistics were computed before its activations were damaged."""

        def __getattr__(self, name: str) -> object:
            return getattr(activations, name)

        def windows(self, *arguments: object) -> object:
            windows = activations.windows(*arguments)  # type: ignore[arg-type]
            read = windows.batch
            windows.batch = lambda step: read(step)._replace(x=read(step).x * np.nan)  # type: ignore[method-assign]
            return windows

    death = collapse(small.variant(), Broken(), tmp_path / "run")  # type: ignore[arg-type]
    assert "not finite" in death.what
    assert "activations are not finite" in str(death.do)


def test_a_healthy_run_passes() -> None:
    guard = CollapseGuard(small.variant(), 32, 1000)
    guard.check(0, HEALTHY)
    guard.check(1000, HEALTHY)


def test_what_the_start_of_training_looks_like_is_no_collapse() -> None:
    guard = CollapseGuard(small.variant(warmup=100), 32, 1000)
    start = {**HEALTHY, "explained_variance": -1.0, "l0": 17.0}
    guard.check(99, start)
    with pytest.raises(Collapse, match="17 of 32"):
        guard.check(100, start)
    with pytest.raises(Collapse, match="less than the mean does"):
        guard.check(100, {**HEALTHY, "explained_variance": -1.0})


@pytest.mark.parametrize(
    ("sign", "diagnosis"),
    [
        ({"l0": 0.2}, "threshold: the encoder's biases"),
        ({"l0": 0.2, "threshold": 4.8}, "threshold: the learned ones are 4.8 root mean squares"),
        ({"dead_latents": 31.0}, "learning rate"),
        ({"loss/total": float("nan")}, "learning rate"),
        ({"grad_norm": float("inf")}, "learning rate"),
        ({"input_energy": 1e-6, "l0": 0.0}, "scale"),
    ],
)
def test_signs_of_a_dead_run(sign: dict[str, float], diagnosis: str) -> None:
    with pytest.raises(Collapse) as death:
        CollapseGuard(small.variant(), 32, 1000).check(50, {**HEALTHY, **sign})
    assert str(death.value.do).startswith(diagnosis)


def test_temporal_terms_far_too_strong(activations: store.ActivationStore, tmp_path: Path) -> None:
    """Consistency is cheapest to have by codes that vanish."""
    row = small.temporal(delay=20, ramp=20, weight=1e5, lr=0.03, aux=0.0)
    death = collapse(row, activations, tmp_path / "run")
    assert str(death.do).startswith("temporal terms: they pulled the codes ")
