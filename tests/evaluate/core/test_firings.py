"""Firings by the three definitions, where codes have a sign or are made of events."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluate.core.firings import Firings, FiringsByDefinition


@given(seed=st.integers(0, 1000), signed=st.booleans(), derived=st.booleans())
def test_against_loops(seed: int, signed: bool, derived: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    found = FiringsByDefinition.none(3)
    codes = torch.randint(-1 if signed else 0, 2, (2, 4, 6, 3), generator=draw).float()
    events = torch.randint(0, 2, codes.shape, generator=draw).float() if derived else codes
    keep = torch.rand(2, 4, 6, generator=draw) < 0.6
    for batch in zip(codes, events, keep, strict=True):
        found = found.plus(FiringsByDefinition.of(batch[0], batch[0] if events is codes else batch[1], batch[2]))
    expected = {"positive": codes > 0, "nonzero": codes != 0, "events": events > 0}
    for name, active in expected.items():
        firings: Firings = getattr(found, name)
        for latent in range(3):
            rows = [(active[b, r, :, latent] & keep[b, r]).sum().item() for b in range(2) for r in range(4)]
            assert firings.tokens[latent] == sum(rows)
            assert firings.rows[latent] == sum(row > 0 for row in rows)
    assert torch.equal(found.positive.consistency.isnan(), found.positive.tokens == 0)
