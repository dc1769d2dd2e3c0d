from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.sae import Normalisation, load_variants
from stages.train.plan import make_plan
from stages.train.schedule import LearningRate, Ramp
from stages.train.trainer import Trainer
from store.windows import WindowBatch
from tests.train import small


def test_warm_up_plateau_and_decay() -> None:
    rate = LearningRate(1e-3, Ramp(10), 0.2, 100)
    assert rate.at(0) == pytest.approx(1e-4)
    assert rate.at(9) == rate.at(80) == 1e-3
    assert rate.at(90) == pytest.approx(0.5e-3)
    assert rate.at(99) == pytest.approx(0.05e-3)


@given(st.integers(0, 50), st.floats(0, 0.9), st.integers(1, 200))
def test_learning_rate_is_positive_and_never_above_its_peak(warmup: int, decay: float, steps: int) -> None:
    rate = LearningRate(2.0, Ramp(warmup), decay, steps)
    assert all(0 < rate.at(step) <= 2.0 for step in range(steps))


def test_no_warm_up_is_a_constant() -> None:
    assert Ramp(0).at(0) == 1.0


def test_windows_of_multiscale_are_of_32_64_and_128_tokens_for_a_third_of_the_steps_each() -> None:
    """Tokens share a segment where they share a document and a window; none is lost."""
    config = small.config(load_variants(small.TABLE)["multiscale"], steps=12)
    trainer = Trainer(config, make_plan(12, 256), Normalisation(torch.zeros(4, dtype=torch.float64), 1.0), 128)
    document = torch.zeros(2, 128, dtype=torch.int32)
    document[:, 0] = -1
    document[1, 50:] = 1
    windows = WindowBatch(torch.randn(2, 128, 4), document, torch.zeros_like(document), np.arange(2))
    for step in range(12):
        length = (32, 64, 128)[step // 4]
        segments = trainer.batch(step, windows).segments
        assert torch.equal(segments >= 0, document >= 0)
        for row in range(2):
            for s in range(1, 128):
                for t in (1, 31, 32, 49, 50, 63, 64, 65, 95, 96, 127):
                    together = document[row, s] == document[row, t] and s // length == t // length
                    assert (segments[row, s] == segments[row, t]) == together, (step, row, s, t)
