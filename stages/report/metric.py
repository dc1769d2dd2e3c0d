"""The metrics in which a temporal variant is compared with its controls."""

from __future__ import annotations

from dataclasses import dataclass

SCALES = ("short", "medium", "long")
"""Of lags, as the evaluation names them."""


@dataclass(frozen=True)
class Metric:
    """A number of `summary.json`, and how to read it."""

    name: str
    """Key in `summary.json`."""
    title: str
    """What tables and figures call it."""
    better: int
    """1 where more is better, -1 where less is, 0 where a number only says what the others are worth."""
    bought: bool
    """Whether a temporal part is meant to improve it; otherwise it is where the price shows."""
    digits: int
    """After the decimal point, in tables."""
    relative: bool = False
    """Whether figures draw a difference relative to the control: for units that no other metric shares."""


TCS = tuple(Metric(f"tcs_{scale}", f"TCS {scale}", better=1, bought=True, digits=4) for scale in SCALES)
FSM = (
    Metric("fsm_support", "FSM support", better=1, bought=True, digits=4),
    Metric("fsm_magnitude", "FSM magnitude", better=1, bought=True, digits=4),
)
SMOOTHNESS = Metric("smoothness", "Smoothness", better=-1, bought=True, digits=4, relative=True)
QUALITY = (
    Metric("explained_variance_centred", "Explained variance", better=1, bought=False, digits=4),
    Metric("ce_loss_score", "CE score", better=1, bought=False, digits=4),
)
L0 = Metric("l0", "L0", better=0, bought=False, digits=1, relative=True)
DEAD = Metric("dead_latents", "Dead latents", better=0, bought=False, digits=0, relative=True)

METRICS = (*TCS, *FSM, SMOOTHNESS, *QUALITY, L0, DEAD)
"""All of them, what is bought before what it costs."""
