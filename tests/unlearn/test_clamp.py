"""The intervention against a loop, and which latents it is applied to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.sae.model import SAE
from stages.sae.sparsifier import TopK
from stages.unlearn.clamp import Clamp, clamped, recently
from stages.unlearn.latents import select

D, D_SAE = 12, 24


def tiny_sae() -> SAE:
    sae = SAE(D, D_SAE, TopK(4)).eval()
    sae.initialise(0)
    return sae


def rows(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of three documents between separators, and padding."""
    segments = torch.tensor([-1, 0, 0, 0, 0, -1, 1, 1, 1, -1, 2, 2, -1, -1], dtype=torch.int32).repeat(2, 1)
    return torch.randn(2, 14, D, generator=torch.Generator().manual_seed(seed)), segments


@pytest.mark.parametrize("window", [1, 3, 100])
def test_it_equals_a_loop_over_tokens(window: int) -> None:
    sae = tiny_sae()
    x, segments = rows(1)
    codes = sae.encode(x, segments)
    latents = (2, 5, 7, 11)
    own = codes[..., list(latents)]
    found = clamped(x, own, own > 0, segments, sae, Clamp(latents, 3.0, window))
    for row in range(2):
        for t in range(x.shape[1]):
            changed = codes[row, t].clone()
            for i in latents:
                past = range(max(0, t - window + 1), t + 1)
                document = segments[row, t]
                if document >= 0 and any(segments[row, s] == document and codes[row, s, i] > 0 for s in past):
                    changed[i] = -3.0
            expected = x[row, t] - sae.decode(codes[row, t]) + sae.decode(changed)
            torch.testing.assert_close(found[row, t], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[segments < 0], x[segments < 0])
    assert not torch.allclose(found, x)


def test_a_window_reaches_tokens_at_which_the_latent_is_silent() -> None:
    sae = tiny_sae()
    x, segments = rows(1)
    codes = sae.encode(x, segments)
    own = codes[..., :6]
    one, many = (clamped(x, own, own > 0, segments, sae, Clamp(tuple(range(6)), 3.0, w)) for w in (1, 4))
    assert not torch.allclose(one, many)


def test_no_latents_change_nothing() -> None:
    x, segments = rows(2)
    codes = tiny_sae().encode(x, segments)
    none = codes[..., :0]
    assert clamped(x, none, none > 0, segments, tiny_sae(), Clamp((), 9.0)) is x


def test_a_latent_is_clamped_where_it_fires_not_where_its_code_lasts() -> None:
    """Codes of an SAE with a leaky integrator stay above 0 after an event."""
    sae = tiny_sae()
    x, segments = rows(1)
    codes, fired = torch.rand(2, 14, D_SAE) + 0.1, torch.zeros(2, 14, D_SAE, dtype=torch.bool)
    fired[0, 2, 5] = True
    found = clamped(x, codes[..., [5]], fired[..., [5]], segments, sae, Clamp((5,), 3.0))
    expected = x.clone()
    expected[0, 2] -= (3.0 + codes[0, 2, 5]) * sae.W_dec[5]
    torch.testing.assert_close(found, expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_recently_stays_within_documents(window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    active = torch.from_numpy(rng.random((2, 9, 3)) < 0.3)
    segments = torch.from_numpy(np.sort(rng.integers(-1, 3, (2, 9)), axis=1).astype(np.int32))
    active &= (segments >= 0).unsqueeze(-1)
    found = recently(active, segments, window)
    for row in range(2):
        for t in range(9):
            same = [s for s in range(max(0, t - window + 1), t + 1) if segments[row, s] == segments[row, t] >= 0]
            expected = active[row, same].any(0) if same else torch.zeros(3, dtype=torch.bool)
            assert torch.equal(found[row, t], expected)


def test_latents_are_those_that_fire_on_the_text_to_forget_alone() -> None:
    forget = np.array([0.5, 0.2, 0.0, 0.9, 0.3])
    retain = np.array([0.0, 0.005, 0.0, 0.4, 0.01])
    assert select(forget, retain, 0.01).tolist() == [0, 1]
    assert select(forget, retain, 1.0).tolist() == [3, 0, 4, 1]
    assert select(forget, retain, 0.0).tolist() == []
