"""Cross-entropy and KL divergence of the language model with SAEs in its residual stream.

SAEBench core's reconstruction metrics. The layers up to the hook, and the clean and the zero-ablated pass
from there, run once a batch however many SAEs are evaluated. Logits exist for a block of positions at a
time: float32 logits of 16 x 128 positions of a vocabulary of 262,144 would be 2 GB for every pass.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.evaluate.bootstrap import Draws, Sums
from stages.evaluate.core.rows import Rows
from stages.language_model.splice import Splice
from stages.sae.model import SAE
from store.progress import SILENT, Progress

CLEAN = "clean pass"
ABLATION = "zero ablation"

LOGIT_BYTES = 128 * 2**20
"""Size of one float32 block of logits. Four are kept, and the model's head makes a fifth."""


class SplicingMeter:
    """Sums over kept tokens of the cross-entropy and the KL divergence of every pass, and what divides them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._counts = Sums(2, device)
        self._passes: dict[str, Sums] = {}

    def add(
        self,
        losses: Mapping[str, tuple[Float[Tensor, " kept"], Float[Tensor, " kept"]]],
        document: Int[Tensor, "batch seq"],
    ) -> None:
        """Count one batch: for every pass the cross-entropy and the KL divergence, in nats, of its kept positions.

        As in SAEBench, cross-entropy is masked by the token that a prediction is made at (a prediction *of* a
        separator counts), and a row's last position, which has no next token, counts for KL only.
        """
        keep = document >= 0
        has_next = keep.clone()
        has_next[:, -1] = False
        counted = torch.stack([has_next[keep], torch.ones_like(has_next[keep])], dim=1).double()
        draws = Draws.of(document[keep].cpu().numpy(), self._device)
        self._counts.add(draws.by_run(counted), draws)
        for name, (ce, kl) in losses.items():
            sums = self._passes.setdefault(name, Sums(2, self._device))
            sums.add(draws.by_run(torch.stack([ce, kl], dim=1).double() * counted), draws)

    def finish(self, name: str) -> Splicing:
        """SAEBench's scalars, and their replicates, of the SAE `name`."""
        everything = {each: _by_loss(sums) for each, sums in self._passes.items()}
        n_ce, n_kl = _by_loss(self._counts)
        ce, kl = ({each: sums[loss] for each, sums in everything.items()} for loss in (0, 1))
        ratios = {
            "ce_loss_without_sae": ce[CLEAN] / n_ce,
            "ce_loss_with_ablation": ce[ABLATION] / n_ce,
            "ce_loss_with_sae": ce[name] / n_ce,
            "ce_loss_score": (ce[ABLATION] - ce[name]) / (ce[ABLATION] - ce[CLEAN]),
            "kl_div_with_ablation": kl[ABLATION] / n_kl,
            "kl_div_with_sae": kl[name] / n_kl,
            "kl_div_score": (kl[ABLATION] - kl[name]) / kl[ABLATION],
        }
        return Splicing(
            scalars={key: float(values[0]) for key, values in ratios.items()},
            replicates={key: values[1:].cpu().numpy() for key, values in ratios.items()},
            tokens=int(n_kl[0]),
        )


def _by_loss(sums: Sums) -> Float[Tensor, "2 replicates+1"]:
    """The sum of the sample, then those of the replicates."""
    return torch.cat([sums.sample[None], sums.replicates]).T


@dataclass(frozen=True)
class Splicing:
    """Reconstruction metrics of one SAE."""

    scalars: dict[str, float]
    """By SAEBench's names. KL uses log_softmax and stays finite where SAEBench's log(softmax) underflows."""
    replicates: dict[str, Float[np.ndarray, " replicates"]]
    """The same in the bootstrap over documents."""
    tokens: int
    """Kept tokens."""


def final_states(
    splice: Splice,
    saes: Mapping[str, SAE],
    tokens: Int[Tensor, "batch seq"],
    document: Int[Tensor, "batch seq"],
    without_documents: Container[str] = (),
) -> dict[str, Float[Tensor, "kept d"]]:
    """Final hidden states at kept positions: of the clean pass, of the zero ablation and of every SAE.

    An SAE replaces the residual stream at kept positions only; the ablation zeroes it at every position
    (SAEBench with `exclude_special_tokens_from_reconstruction`). SAEs `without_documents` read rows as SAEBench passes
    them.
    """
    keep = document >= 0
    clean = splice.resid(tokens)

    def reconstructed(sae: SAE, segments: Int[Tensor, "batch seq"] | None) -> Float[Tensor, "batch seq d"]:
        output = sae.decode(sae.encode(clean.float(), segments=segments))
        return torch.where(keep[..., None], output.to(clean.dtype), clean)

    states = {CLEAN: splice.tail(clean, tokens)[keep]}
    states[ABLATION] = splice.tail(torch.zeros_like(clean), tokens)[keep]
    for name, sae in saes.items():
        segments = None if name in without_documents else document
        states[name] = splice.tail(reconstructed(sae, segments), tokens)[keep]
    return states


class Comparison:
    """Cross-entropy, and KL divergence from the clean pass, of every pass: a block of positions at a time.

    Blocks live in memory that is allocated once: fresh pages for every intermediate result cost several times
    the arithmetic on it. Probabilities are float32 (the model may compute logits in bfloat16).
    """

    def __init__(self, splice: Splice) -> None:
        self._splice = splice
        self._memory = torch.empty(0)

    def __call__(
        self, states: Mapping[str, Float[Tensor, "kept d"]], targets: Int[Tensor, " kept"]
    ) -> dict[str, tuple[Float[Tensor, " kept"], Float[Tensor, " kept"]]]:
        """For every pass the cross-entropy of `targets` and the KL divergence, in nats a position."""
        ablated = torch.log_softmax(self._splice.logits(states[ABLATION][:1]).float(), dim=-1)
        # A bias-free RMSNorm model turns a zeroed residual stream into one and the same state everywhere.
        constant = bool((states[ABLATION] == states[ABLATION][:1]).all())
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in states}
        for block in torch.arange(len(targets)).split(self._allocate(ablated)):
            clean, probability, other, scratch = self._memory[:, : len(block)]
            self._log_probabilities(states[CLEAN][block], scratch, out=clean)
            torch.exp(clean, out=probability)
            for name, hidden in states.items():
                if name == CLEAN:
                    log_q = clean
                elif name == ABLATION and constant:
                    log_q = ablated.expand_as(clean)
                else:
                    log_q = self._log_probabilities(hidden[block], scratch, out=other)
                ce = -log_q.gather(1, targets[block, None])[:, 0]
                kl = torch.sub(clean, log_q, out=scratch).mul_(probability).sum(dim=-1)
                parts[name].append((ce, kl))
        return {name: (torch.cat([c for c, _ in p]), torch.cat([k for _, k in p])) for name, p in parts.items()}

    def _allocate(self, like: Float[Tensor, "1 vocab"]) -> int:
        """Positions a block; on first use also the memory for four blocks."""
        positions = max(1, LOGIT_BYTES // (4 * like.shape[-1]))
        if not self._memory.numel():
            self._memory = like.new_empty(4, positions, like.shape[-1])
        return positions

    def _log_probabilities(
        self, hidden: Float[Tensor, "block d"], scratch: Float[Tensor, "block vocab"], out: Tensor
    ) -> Float[Tensor, "block vocab"]:
        """Log-probabilities of the next token, written to `out`."""
        return torch.log_softmax(scratch.copy_(self._splice.logits(hidden)), dim=-1, out=out)


@torch.no_grad()
def reconstruction(
    saes: Mapping[str, SAE],
    splice: Splice,
    source: Rows,
    batches: Sequence[np.ndarray],
    progress: Progress = SILENT,
    without_documents: Container[str] = (),
) -> dict[str, Splicing]:
    """Run `batches` of rows through the language model with every SAE spliced in; by name, the metrics.

    SAEs `without_documents` get rows as SAEBench passes them: each is one document with BOS at position 0.
    """
    device = next(iter(saes.values())).W_dec.device
    meter = SplicingMeter(device)
    compare = Comparison(splice)
    progress.start("cross-entropy and KL", len(batches), "batches")
    for rows in batches:
        tokens = torch.as_tensor(source.tokens(rows)).to(device).long()
        document = torch.as_tensor(source.document(rows)).to(device)
        keep = document >= 0
        if bool(keep.any()):
            targets = tokens.roll(-1, dims=1)[keep]
            states = final_states(splice, saes, tokens, document, without_documents)
            meter.add(compare(states, targets), document)
        progress.advance(1)
    return {name: meter.finish(name) for name in saes}
