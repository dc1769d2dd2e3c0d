"""Collapse guards: a dead run ends with the reason instead of with a dead SAE."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stages.sae.variant import Variant
from stages.train.schedule import end_of_schedules
from store.problem import Problem

SMALLEST_L0 = 0.5
"""Active latents a token below which nothing is coded."""
LARGEST_SHARE = 0.5
"""Share of latents active on a token above which nothing is sparse."""
LARGEST_DEAD_SHARE = 0.95
"""Share of dead latents above which the dictionary is lost."""
ENERGIES = (0.25, 4.0)
"""Mean squared norm of normalised inputs outside of which the scale is wrong; a batch's is near 1."""
LARGEST_CUTOFF = 0.1
"""Share of the inputs' norm that L1 may take from each code before it is what kills a run."""
LARGEST_THRESHOLD = 2.0
"""Learned thresholds in root mean squares of the pre-activations; a normal variable exceeds 2 in 2 % of cases."""
LARGEST_TEMPORAL_PULL = 1.0
"""Temporal gradient on the codes over that of the reconstruction; above it, smaller codes pay better than true ones."""


class Collapse(Problem):
    """A training that ended because it produced, or could only produce, a dead SAE."""

    def __init__(self, name: str, step: int, symptom: str, *, expected: str, found: str, do: str) -> None:
        """`name` is the variant's, `symptom` a sentence without its full stop."""
        self.step = step
        self.symptom = symptom
        super().__init__(f"Training {name} collapsed at step {step}: {symptom}.", expected=expected, found=found, do=do)


class CollapseGuard:
    """Looks at a step's metrics (those of the log) for signs of a dead run."""

    def __init__(self, variant: Variant, d_sae: int, steps: int) -> None:
        self.variant = variant
        self.d_sae = d_sae
        self.settled = end_of_schedules(variant, steps)
        """The step from which the objective has full weight, and a run must reconstruct and be sparse."""

        self.pull = 0.0
        """The largest gradient of the temporal terms so far, over that of the reconstruction loss."""

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raise `Collapse` where the run is dead at a step, counted from 0."""
        pull = sum(value for name, value in metrics.items() if name.startswith("temporal/gradient_"))
        self.pull = max(self.pull, pull if math.isfinite(pull) else 0.0)
        symptom = self._symptom(step, metrics)
        if symptom is not None:
            raise Collapse(
                self.variant.name,
                step,
                symptom,
                expected=self._expected(step),
                found=", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())),
                do=self._diagnosis(metrics),
            )

    def _symptom(self, step: int, metrics: Mapping[str, float]) -> str | None:
        l0, explained = metrics["l0"], metrics["explained_variance"]
        dead = metrics["dead_latents"] / self.d_sae
        if not (math.isfinite(metrics["loss/total"]) and math.isfinite(metrics["grad_norm"])):
            return "the loss or its gradient is not finite"
        if not ENERGIES[0] <= metrics["input_energy"] <= ENERGIES[1]:
            return f"the mean squared norm of the inputs is {metrics['input_energy']:.3g} instead of 1"
        if l0 < SMALLEST_L0:
            return f"a token activates {l0:.3g} latents"
        if dead > LARGEST_DEAD_SHARE:
            return f"{dead:.0%} of the latents are dead"
        if step >= self.settled and l0 > LARGEST_SHARE * self.d_sae:
            return f"a token activates {l0:.4g} of {self.d_sae} latents"
        if step >= self.settled and explained <= 0:
            return f"it explains {explained:.3g} of the variance, less than the mean does"
        return None

    def _expected(self, step: int) -> str:
        limits = [
            f"L0 above {SMALLEST_L0}",
            f"under {LARGEST_DEAD_SHARE:.0%} dead",
            f"input energy in {ENERGIES[0]:g} to {ENERGIES[1]:g}",
        ]
        if step >= self.settled:
            limits += ["explained variance above 0", f"L0 below {LARGEST_SHARE * self.d_sae:g}"]
        return ", ".join(limits)

    def _diagnosis(self, metrics: Mapping[str, float]) -> str:
        """The likeliest cause, in the order in which one hides the next."""
        energy, l1, lr = metrics["input_energy"], self.variant.objective.l1, metrics["lr"]
        if math.isfinite(energy) and not ENERGIES[0] <= energy <= ENERGIES[1]:
            return (
                f"scale: normalised inputs have the mean squared norm {energy:.3g}, so weights and thresholds mean "
                f"{math.sqrt(energy):.3g} times what the table says. The store's statistics are not those of its "
                "activations: verify the store, or harvest again"
            )
        if not math.isfinite(energy):
            return "scale: the activations are not finite. Verify the store, or harvest again"
        # A latent of unit norm codes a projection p as p - l1 / 2; inputs have norm 1.
        if metrics["l0"] <= LARGEST_SHARE * self.d_sae and l1 / 2 > LARGEST_CUTOFF:
            return (
                f"L1: with weight {l1:g} a latent only fires where its input's projection exceeds {l1 / 2:g}, and "
                "inputs have norm 1. Lower objective.l1; 0.04 is usual"
            )
        threshold = metrics.get("threshold", 0.0)
        if threshold > LARGEST_THRESHOLD:
            return (
                f"threshold: the learned ones are {threshold:.3g} root mean squares of the pre-activations, and hardly "
                "any exceeds that. Lower sparsifier.threshold.initial; 0.1 in pre_activation_rms is usual"
            )
        if self.pull > LARGEST_TEMPORAL_PULL:
            return (
                f"temporal terms: they pulled the codes {self.pull:.3g} times as hard as the reconstruction loss did. "
                "Lower the weights of objective.temporal; 0.01 for the shortest scale is usual"
            )
        if lr > 1e-2 or not math.isfinite(metrics["loss/total"]):
            return f"learning rate: {lr:.3g} moves weights of size 1 too far a step. Lower optimizer.lr; 3e-4 is usual"
        if metrics["l0"] > LARGEST_SHARE * self.d_sae and self.variant.sparsifier.kind == "relu":
            return f"L1: weight {l1:g} is too small to make codes sparse. Raise objective.l1; 0.04 is usual"
        if metrics["l0"] > LARGEST_SHARE * self.d_sae and "threshold" in metrics:
            return (
                f"threshold: the learned ones are {threshold:.3g} root mean squares of the pre-activations, which most "
                "exceed. Raise objective.l0, which raises them, or sparsifier.threshold.initial"
            )
        if metrics["l0"] < SMALLEST_L0:
            bias = metrics["encoder_bias"]
            return f"threshold: the encoder's biases have the mean {bias:.3g} and silence every latent"
        return f"learning rate: {lr:.3g} may be too small to learn in these steps, or too large to settle"
