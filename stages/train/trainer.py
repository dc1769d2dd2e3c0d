"""One training: an SAE, its optimiser and counters, and what a step does to them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stages.sae.build import Blueprint
from stages.sae.normalisation import Normalisation
from stages.train.config import TrainConfig
from stages.train.measure import StepMetrics, instruments
from stages.train.objective import Batch, Objective, squared_norm
from stages.train.optimiser import Optimiser
from stages.train.plan import TrainPlan
from stages.train.pruning import Pruning
from stages.train.randomness import rng_at
from stages.train.schedule import LearningRate, Ramp, end_of_schedules, window_length
from stages.train.stopping import Stopping
from store.pairs import permutation_within_documents
from store.windows import WindowBatch


class Trainer:
    """Everything that changes from step to step, all of it in `state`."""

    def __init__(self, config: TrainConfig, plan: TrainPlan, normalisation: Normalisation, context: int) -> None:
        """Initialise an SAE as the seed says. `context` is the length of the store's sequences."""
        row = config.variant
        self.config = config
        self.row = row
        self.device = torch.device(plan.device)
        self.normalisation = normalisation
        blueprint = Blueprint.of(row, len(normalisation.mean), config.d_sae, config.k, context)
        sae = blueprint.make(config.seed)
        sae.products = getattr(torch, plan.products)
        self.sae = sae.to(self.device).train()
        self.objective = Objective(row.objective, config.seed, config.steps, row.batches.recompute)
        self.optimiser = Optimiser(row.optimizer, self.sae, config.seed)
        self.learning_rate = LearningRate(
            row.optimizer.lr, Ramp(row.optimizer.warmup), row.optimizer.decay, config.steps
        )
        self.silent_tokens = torch.zeros(config.d_sae, dtype=torch.int64, device=self.device)
        """Kept tokens that each latent has let pass since it last fired."""
        self.tokens = 0
        """Kept tokens seen."""
        self.pruning = Pruning(row.objective.pruning, self.sae, config.steps)
        self.stopping = Stopping(row.stopping, end_of_schedules(row, config.steps))

    def step(self, step: int, windows: WindowBatch, measured: bool) -> dict[str, float]:
        """Do a step, counted from 0. Its metrics, or nothing unless they are to be measured: they cost a wait."""
        batch = self.batch(step, windows)
        if step == 0:
            self.sae.calibrate(batch.x, batch.segments)
        dead = (self.silent_tokens >= self.row.objective.dead_after_tokens) & ~self.sae.pruned
        found = StepMetrics(self.sae, self.objective, batch.n_kept) if measured else None
        for part in batch.parts(self.row.batches.accumulate):
            self._accumulate(step, part, part.n_kept / max(1, batch.n_kept), dead, found)
        prepared = self.optimiser.prepare_gradients(step)
        metrics: dict[str, float] = {}
        if found is not None:
            metrics = found.finish(dead)
            metrics |= {"grad_norm": prepared.norm.item(), "clipped": prepared.clipped.item()}
            metrics |= {"lr": self.learning_rate.at(step)}
            metrics |= instruments(self.sae, batch) if self.row.instrumentation else {}
        self.optimiser.step(self.learning_rate.at(step))
        self.pruning.after(step)
        return metrics

    def _accumulate(
        self, step: int, part: Batch, share: float, dead: Bool[Tensor, " d_sae"], metrics: StepMetrics | None
    ) -> None:
        """Add a part's gradients, by its share of the kept tokens, and count what fired in it. Nothing as large as
        codes outlives it."""
        found = self.objective(self.sae, part, dead, step)
        (found.total * share).backward()
        self.sae.follow()
        if metrics is not None:
            metrics.add(part, found)
        with torch.no_grad():
            events = found.codes.events
            self.tokens += part.n_kept
            self.silent_tokens.add_(part.n_kept).masked_fill_(events.fired(part.keep), 0)
            self.pruning.count(events, part.keep, part.n_kept)

    def batch(self, step: int, windows: WindowBatch) -> Batch:
        """Windows in normalised units, as long as the row says at a step; for the permuted control in random order
        within each document of a window."""
        length = window_length(self.row.batches.lengths, step, self.config.steps)
        segments = cut(windows.document, length)
        x = windows.x
        if self.row.control == "permuted":
            order = permutation_within_documents(segments.numpy(), rng_at(self.config.seed, step, "permuted"))
            x = x[torch.arange(len(x)).unsqueeze(1), torch.from_numpy(order)]
        return self._normalised(x, segments)

    def _normalised(self, x: Float[Tensor, "batch seq d_in"], segments: Tensor) -> Batch:
        keep = segments >= 0
        n_kept = int(keep.sum())
        keep = keep.to(self.device)
        return Batch(self.normalisation.apply(x.to(self.device), keep), segments.to(self.device), keep, n_kept)

    @torch.no_grad()
    def held_out_loss(self, batches: Sequence[WindowBatch]) -> float:
        """The reconstruction loss on windows that training does not see, as inference would encode them."""
        self.sae.eval()
        total, n_kept = 0.0, 0
        for windows in batches:
            batch = self._normalised(windows.x, windows.document)
            error = batch.x - self.sae(batch.x, batch.segments)
            total += squared_norm(error, batch).item() * batch.n_kept
            n_kept += batch.n_kept
        self.sae.train()
        return total / max(1, n_kept)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        parts = {
            "sae": self.sae.state_dict(),
            "optimiser": self.optimiser.state(),
            "pruning": self.pruning.state(),
            "stopping": self.stopping.state(),
            "objective": self.objective.state(),
        }
        named = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        return {**named, "silent_tokens": self.silent_tokens, "tokens": torch.tensor(self.tokens)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.sae.load_state_dict(_below(state, "sae."))
        self.optimiser.load_state(_below(state, "optimiser."))
        self.pruning.load_state(_below(state, "pruning."))
        self.stopping.load_state(_below(state, "stopping."))
        self.objective.load_state(_below(state, "objective."))
        self.silent_tokens.copy_(state["silent_tokens"])
        self.tokens = int(state["tokens"])


def cut(document: Tensor, length: int) -> Tensor:
    """Segments of sequences that are cut into windows of a length: tokens share one only within document and window.

    Positions stay those of the stored row, and no token is lost, as it would be at the end of shorter windows.
    """
    context = document.shape[1]
    if length >= context:
        return document
    n_windows = -(-context // length)
    window = torch.arange(context, dtype=document.dtype) // length
    return torch.where(document >= 0, document * n_windows + window, document)


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@contextmanager
def following(plan: TrainPlan) -> Iterator[None]:
    """Compute with the plan's threads, on a GPU with sums in one order wherever torch has an algorithm for that; as the
    caller did again afterwards."""
    threads, strict = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(plan.threads)
    if plan.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or its products are of no fixed order
        torch.set_deterministic_debug_mode(max(strict, 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strict)
