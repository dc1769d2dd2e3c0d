"""One training: an SAE, its optimiser and counters, and what a step does to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from stages.sae.model import SAE
from stages.sae.normalisation import Normalisation
from stages.sae.products import product
from stages.sae.sparsifier import make_sparsifier
from stages.train.config import TrainConfig
from stages.train.objective import Batch, Evaluated, Objective, squared_norm
from stages.train.optimiser import Optimiser
from stages.train.plan import TrainPlan
from stages.train.randomness import rng_at
from stages.train.schedule import LearningRate, Ramp
from store.pairs import permutation_within_documents
from store.windows import WindowBatch


class Trainer:
    """Everything that changes from step to step, all of it in `state`."""

    def __init__(self, config: TrainConfig, plan: TrainPlan, normalisation: Normalisation) -> None:
        """Initialise an SAE as the seed says."""
        row = config.variant
        self.seed = config.seed
        self.permuted = row.control == "permuted"
        self.device = torch.device(plan.device)
        self.normalisation = normalisation
        sae = SAE(len(normalisation.mean), config.d_sae, make_sparsifier(row.sparsifier, config.k))
        sae.initialise(config.seed)
        sae.products = getattr(torch, plan.products)
        self.sae = sae.to(self.device)
        self.objective = Objective(row.objective, config.seed)
        self.optimiser = Optimiser(row.optimizer, self.sae, config.seed)
        self.learning_rate = LearningRate(
            row.optimizer.lr, Ramp(row.optimizer.warmup), row.optimizer.decay, config.steps
        )
        self.dead_after = row.objective.dead_after_tokens
        self.silent_tokens = torch.zeros(config.d_sae, dtype=torch.int64, device=self.device)
        """Kept tokens that each latent has let pass since it last fired."""
        self.tokens = 0
        """Kept tokens seen."""

    def step(self, step: int, windows: WindowBatch, measured: bool) -> dict[str, float]:
        """Do a step, counted from 0. Its metrics, or nothing unless they are to be measured: they cost a wait."""
        batch = self.batch(step, windows)
        dead = self.silent_tokens >= self.dead_after
        evaluated = self.objective(self.sae, batch, dead, step)
        total = torch.stack(list(evaluated.terms.values())).sum()
        total.backward()
        gradient_norm = self.optimiser.prepare_gradients(step)
        metrics: dict[str, float] = {}
        if measured:
            metrics = self._measure(step, batch, evaluated, total, gradient_norm, dead)
        self.optimiser.step(self.learning_rate.at(step))
        self._count(batch, evaluated)
        return metrics

    def batch(self, step: int, windows: WindowBatch) -> Batch:
        """Windows in normalised units; for the permuted control in random order within documents."""
        keep = windows.document >= 0
        n_kept = int(keep.sum())
        keep = keep.to(self.device)
        x = windows.x
        if self.permuted:
            order = permutation_within_documents(windows.document.numpy(), rng_at(self.seed, step, "permuted"))
            x = x[torch.arange(len(x)).unsqueeze(1), torch.from_numpy(order)]
        x = self.normalisation.apply(x.to(self.device), keep)
        return Batch(x, windows.document.to(self.device), keep, n_kept)

    @torch.no_grad()
    def _count(self, batch: Batch, evaluated: Evaluated) -> None:
        self.tokens += batch.n_kept
        self.silent_tokens.add_(batch.n_kept).masked_fill_(evaluated.codes.fired(batch.keep), 0)

    @torch.no_grad()
    def _measure(
        self,
        step: int,
        batch: Batch,
        evaluated: Evaluated,
        total: Float[Tensor, ""],
        gradient_norm: Float[Tensor, ""],
        dead: Tensor,
    ) -> dict[str, float]:
        """The step's metrics. Explained variance is centred on the mean of the store's train split, not the batch's."""
        n_kept = max(1, batch.n_kept)
        energy = batch.x.square().sum() / n_kept
        l0 = (evaluated.codes.count() * batch.keep).sum() / n_kept
        reconstruction = squared_norm(evaluated.error, batch)
        values = {
            "loss/total": total,
            **{f"loss/{name}": term for name, term in evaluated.terms.items()},
            "l0": l0,
            "explained_variance": 1 - reconstruction / energy,
            "dead_latents": dead.sum(),
            "grad_norm": gradient_norm,
            "input_energy": energy,
            "encoder_bias": self.sae.b_enc.mean(),
            **self._measure_temporal(batch, evaluated, reconstruction),
        }
        numbers = torch.stack([value.to(torch.float64) for value in values.values()]).tolist()
        terms = {f"loss/{name}": 0.0 for name in self.objective.terms}
        return {**terms, **dict(zip(values, numbers, strict=True)), "lr": self.learning_rate.at(step)}

    def _measure_temporal(
        self, batch: Batch, evaluated: Evaluated, reconstruction: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        """Metrics of the temporal terms, relative to the reconstruction loss without its boost."""
        temporal = self.objective.temporal
        if temporal is None:
            return {}
        slope = evaluated.error * (2 / max(1, batch.n_kept) * batch.keep).unsqueeze(-1)
        pull = product(slope.flatten(0, -2), self.sae.W_dec.T, self.sae.products).norm()
        return temporal.metrics(evaluated.consistency, evaluated.codes.dense(), reconstruction, pull)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        return {
            **{f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()},
            **{f"optimiser.{name}": tensor for name, tensor in self.optimiser.state().items()},
            "silent_tokens": self.silent_tokens,
            "tokens": torch.tensor(self.tokens),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        parts = {prefix: _below(state, prefix) for prefix in ("sae.", "optimiser.")}
        self.sae.load_state_dict(parts["sae."])
        self.optimiser.load_state(parts["optimiser."])
        self.silent_tokens.copy_(state["silent_tokens"])
        self.tokens = int(state["tokens"])


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@contextmanager
def following(plan: TrainPlan) -> Iterator[None]:
    """Compute with the plan's threads, and with the caller's again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
