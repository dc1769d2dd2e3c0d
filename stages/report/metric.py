"""The metrics in which a temporal variant is compared with its controls and with SAEs of single tokens."""

from __future__ import annotations

from dataclasses import dataclass

from stages.evaluate.catalogue import CATALOGUE, SUMMARY_K, of_probe
from stages.evaluate.definition import Definition
from stages.evaluate.temporal.consistency import SCALES


@dataclass(frozen=True)
class Metric:
    """A number of `summary.json`, and how to read it."""

    definition: Definition
    """What it is."""
    bought: bool
    """Whether a temporal part is meant to improve it; otherwise it is where the price shows."""
    digits: int
    """After the decimal point, in tables."""
    relative: bool = False
    """Whether figures draw a difference relative to the control: for units that no other metric shares."""

    @property
    def name(self) -> str:
        """Key in `summary.json`."""
        return self.definition.name

    @property
    def title(self) -> str:
        """What tables and figures call it."""
        return self.definition.title

    @property
    def better(self) -> int:
        """1 where more is better, -1 where less is, 0 where neither is."""
        return self.definition.better


TCS = tuple(Metric(CATALOGUE[f"tcs_{scale}"], bought=True, digits=4) for scale in SCALES)
FSM = tuple(Metric(CATALOGUE[f"fsm_{part}"], bought=True, digits=4) for part in ("support", "magnitude"))
SMOOTHNESS = Metric(CATALOGUE["smoothness"], bought=True, digits=4, relative=True)
LIFETIME = Metric(CATALOGUE["lifetime_ratio"], bought=True, digits=3, relative=True)
PROBES = tuple(
    Metric(of_probe(task, SUMMARY_K), bought=task != "syntax", digits=3)
    for task in ("semantics", "semantics_mean", "context", "syntax")
)
"""What a document is about should last; what a word is in its sentence need not."""
QUALITY = tuple(
    Metric(CATALOGUE[name], bought=False, digits=4) for name in ("explained_variance_centred", "ce_loss_score")
)
KL = Metric(CATALOGUE["kl_div_score"], bought=False, digits=4)
L0 = Metric(CATALOGUE["l0"], bought=False, digits=1, relative=True)
DEAD = Metric(CATALOGUE["dead_latents"], bought=False, digits=0, relative=True)

METRICS = (*TCS, *FSM, SMOOTHNESS, LIFETIME, *PROBES, *QUALITY, L0, DEAD)
"""All that are compared, what is bought before what it costs."""
