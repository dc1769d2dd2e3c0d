"""One harvest from start to end, or from where it stopped."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.harvest.activations import harvest_shards
from stages.harvest.config import HarvestConfig
from stages.harvest.plan import HarvestPlan, decide, follow
from stages.harvest.request import make_request
from stages.harvest.selfcheck import SelfCheck, self_check
from stages.harvest.sequences import write_sequences
from stages.language_model import CorpusConfig, LanguageModel, LayerRunner, ModelConfig, load
from store import StoreSpec, StoreWriter, remove_store
from store.files import digest, write_json
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
    """`finished before`, `resumed` or `harvested`."""

    tokens_per_second: float | None
    """Rate of the forward passes of this run, compilation included; None where nothing was left to do."""


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
    _make_way(folder, digest(request), replace, progress)
    if (found := _finished(folder, request, progress)) is not None:
        return found
    lm = load(model, progress)
    spec = StoreSpec(request, config.context, config.dtype, dict.fromkeys(config.layer_list, lm.d_model))
    with StoreWriter.open(folder, spec, progress=progress) as writer:
        if writer.n_sequences is None:
            write_sequences(writer, lm, text, config, progress)
        assert writer.n_sequences is not None
        positions = writer.n_sequences * config.context
        missing = writer.missing_shards()
        left = sum(len(writer.shard_rows(shard)) for shard in missing) * config.context
        check_disk(folder, left * spec.bytes_per_position)
        plan = _plan(writer, config, lm, positions, progress)
        runner = LayerRunner(lm, config.layer_list, compile=plan.compiled)
        progress.start("harvest", positions, "tokens", done=positions - left)
        begun = time.monotonic()
        harvest_shards(writer, runner, config, plan, progress)
        seconds = time.monotonic() - begun
        check = self_check(writer, lm, runner, config, plan)
        root = writer.finish(_card_facts(request, plan))
    result = HarvestResult(
        folder,
        root,
        writer.n_sequences,
        "resumed" if left < positions else "harvested",
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
            "Too little disk for this store",
            where=folder,
            expected=f"{needed / 1e9:.2f} GB free",
            found=f"{free / 1e9:.2f} GB free",
            do="free some space, choose another folder with --store, or harvest fewer --tokens",
        )


def _make_way(folder: Path, fingerprint: str, replace: bool, progress: Progress) -> None:
    """Deal with a store of another content in the same place."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return
    try:
        found = json.loads(manifest.read_text()).get("fingerprint")
    except (ValueError, AttributeError):
        found = "unreadable"
    if found == fingerprint:
        return
    if not replace:
        raise Problem(
            "Another store is in the way",
            where=folder,
            expected=f"fingerprint {fingerprint[:8]}",
            found=str(found)[:8],
            do="name another folder with --store, or delete that one",
        )
    progress.note(f"parameters changed: replacing {folder} ({str(found)[:8]} -> {fingerprint[:8]})")
    remove_store(folder)


def _finished(folder: Path, request: dict[str, Any], progress: Progress) -> HarvestResult | None:
    """The result of an earlier run, if every byte of it is still right."""
    with StoreWriter.attach(folder, request, progress=progress) as writer:
        if writer is None or not writer.complete:
            return None
        assert writer.root is not None and writer.n_sequences is not None
        return HarvestResult(folder, writer.root, writer.n_sequences, "finished before", None)


def _plan(
    writer: StoreWriter, config: HarvestConfig, lm: LanguageModel, positions: int, progress: Progress
) -> HarvestPlan:
    """The recorded plan, or this machine's, recorded before the first shard."""
    if writer.plan:
        return follow(writer.plan, lm)
    plan, notice = decide(config, lm, positions)
    if notice:
        progress.note(notice)
    writer.record_plan(asdict(plan))
    return plan


def _card_facts(request: dict[str, Any], plan: HarvestPlan) -> dict[str, str]:
    return {
        "Language model": str(request["model"]["name"]),
        "Hook points": ", ".join(request["hooks"]),
        "Text": str(request["corpus"]["name"]),
        "Licence of the text": str(request["corpus"].get("licence") or "as its source states"),
        "Packing": f"{request['packing']}, {request['context']} positions a row, BOS first",
        "Forward pass": f"{plan.compute_dtype}, {plan.attention} attention, "
        f"{'compiled' if plan.compiled else 'eager'}, batches of {plan.batch_rows}",
    }


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


def estimate_rate(lm: LanguageModel, config: HarvestConfig) -> float:
    """Tokens/s of an eager forward pass on this machine, from two batches."""
    runner = LayerRunner(lm, config.layer_list, compile=False)
    tokens = np.random.default_rng(0).integers(0, lm.vocab_size, (config.batch_rows, config.context))
    import torch

    block = torch.from_numpy(tokens)
    runner(block)
    begun = time.monotonic()
    runner(block)
    return block.numel() / (time.monotonic() - begun)
