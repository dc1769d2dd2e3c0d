"""One harvest from start to end, or from where it stopped."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stages.harvest.activations import harvest_shards, warm_up
from stages.harvest.card import card_facts
from stages.harvest.config import HarvestConfig
from stages.harvest.plan import HarvestPlan, decide, follow
from stages.harvest.request import make_request
from stages.harvest.selfcheck import SelfCheck, self_check
from stages.harvest.sequences import write_sequences
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.runner import LayerRunner
from store import OtherContent, StoreSpec, StoreWriter, remove_store
from store.files import write_json
from store.problem import Problem
from store.progress import SILENT, Progress


@dataclass(frozen=True)
class HarvestResult:
    """What a harvest ended with."""

    folder: Path
    """The store."""

    root: str
    """Its root digest: the identity of its content."""

    n_sequences: int
    """Rows of `context` positions."""

    did: str
    """`finished before`, `resumed and finished` or `harvested`."""

    tokens_per_second: float | None
    """Rate of this run, compilation left out; None where nothing was left to do."""


def harvest(
    folder: Path,
    config: HarvestConfig,
    model: ModelConfig,
    text: CorpusConfig,
    *,
    request: dict[str, Any] | None = None,
    replace: bool = False,
    progress: Progress = SILENT,
) -> HarvestResult:
    """Run the language model over the corpus and keep the residual stream of `config.layers`.

    A second call finds the store finished. A call after a crash goes on at the first shard that does
    not verify, under the execution plan of the first, and ends with the same bytes.

    Args:
        folder: the store's folder, made if absent.
        request: what `make_request` returned, to save a second reading of the weights.
        replace: remove a store of another fingerprint at `folder`, instead of refusing.

    Raises:
        Problem: wrong model, corpus, layer or plan; too little disk; a failed self-check.
    """
    request = request or make_request(config, model, text, progress)
    layers = dict.fromkeys(config.layer_list, request["model"]["d_model"])
    spec = StoreSpec(request, config.context, config.dtype, layers)
    with _open(folder, spec, replace, progress) as writer:
        if writer.complete:
            assert writer.root is not None and writer.n_sequences is not None
            return HarvestResult(folder, writer.root, writer.n_sequences, "finished before", None)
        resumed = bool(writer.plan)
        lm = load(model, progress)
        if writer.n_sequences is None:
            write_sequences(writer, lm, text, config, progress)
        assert writer.n_sequences is not None
        plan = _plan(writer, config, lm, progress)
        runner = LayerRunner(lm, config.layer_list, compile=plan.compiled)
        total = writer.n_sequences * config.context
        left = sum(len(writer.shard_rows(shard)) for shard in writer.missing_shards()) * config.context
        check_disk(folder, left * bytes_per_token(config, lm.d_model))
        if plan.compiled and left:
            progress.note("compiling the model for this harvest (20 s to a minute)")
            warm_up(runner, writer, plan)
        progress.start("harvest", total, "tokens", done=total - left)
        begun = time.monotonic()
        harvest_shards(writer, runner, config, plan, progress)
        seconds = time.monotonic() - begun
        check = self_check(writer, lm, runner, config, plan)
        root = writer.finish(card_facts(request, asdict(plan)))
        result = HarvestResult(
            folder,
            root,
            writer.n_sequences,
            "resumed and finished" if resumed else "harvested",
            left / seconds if left else None,
        )
    _write_run_json(result, model, check, seconds)
    return result


def check_disk(folder: Path, needed: int) -> None:
    """Refuse before the first shard what would fill the disk, with 1 % and 64 MiB to spare."""
    parent = next(path for path in [folder, *folder.parents] if path.exists())
    free = shutil.disk_usage(parent).free
    needed = int(needed * 1.01) + (64 << 20)
    if free < needed:
        raise Problem(
            "Too little disk for this store.",
            where=folder,
            expected=f"{needed / 1e9:.2f} GB free",
            found=f"{free / 1e9:.2f} GB free",
            do="free some space, choose another folder with --store, or harvest fewer --tokens",
        )


def bytes_per_token(config: HarvestConfig, d_model: int) -> int:
    """Bytes on disk for a position: its activations at every layer, its token and its document."""
    itemsize = torch.finfo(getattr(torch, config.dtype)).bits // 8
    return len(config.layer_list) * d_model * itemsize + 8


def _open(folder: Path, spec: StoreSpec, replace: bool, progress: Progress) -> StoreWriter:
    """The writer of `folder`, a store of another fingerprint removed first if that is wanted."""
    try:
        return StoreWriter.open(folder, spec, progress=progress)
    except OtherContent as other:
        if not replace:
            raise
        progress.note(f"parameters changed: replacing {folder.name} ({other.found})")
        remove_store(folder)
        return StoreWriter.open(folder, spec, progress=progress)


def _plan(writer: StoreWriter, config: HarvestConfig, lm: LanguageModel, progress: Progress) -> HarvestPlan:
    """The recorded plan, or this machine's, recorded before the first shard."""
    if writer.plan:
        return follow(writer.plan, lm)
    assert writer.n_sequences is not None
    plan, notice = decide(config, lm, writer.n_sequences * config.context)
    if notice:
        progress.note(notice)
    writer.record_plan(asdict(plan))
    return plan


def _write_run_json(result: HarvestResult, model: ModelConfig, check: SelfCheck, seconds: float) -> None:
    """What varies from run to run goes beside the store, outside every digest."""
    write_json(
        result.folder.with_name(result.folder.name + ".run.json"),
        {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "harvest_seconds": round(seconds, 1),
            "tokens_per_second": result.tokens_per_second and round(result.tokens_per_second, 1),
            "model_source": model.source,
            "self_check": asdict(check),
        },
    )
