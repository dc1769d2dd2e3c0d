"""One harvest from start to end, or from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages.harvest.activations import missing_tokens
from stages.harvest.alone import Alone
from stages.harvest.card import card_facts
from stages.harvest.config import HarvestConfig
from stages.harvest.replaced import Replaced
from stages.harvest.request import make_request
from stages.harvest.selfcheck import SelfCheck
from stages.harvest.sequences import write_sequences
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import LanguageModel, load
from store import OtherContent, StoreSpec, StoreWriter
from store.files import check_disk, write_json
from store.problem import Problem
from store.progress import SILENT, Progress

if TYPE_CHECKING:
    from stages.harvest.cluster import Cluster
    from stages.harvest.shared import Shared


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
    cluster: Cluster | None = None,
    progress: Progress = SILENT,
) -> HarvestResult:
    """Run the language model over the corpus and keep the residual stream of `config.layers`.

    A second call finds the store finished. A call after a crash computes the shards that are missing or do
    not verify, under the execution plan of the first, and ends with the same bytes.

    Args:
        folder: the store's folder, made if absent.
        request: what `make_request` returned, to save a second reading of the weights.
        replace: replace a store of another fingerprint at `folder`, instead of refusing.
        cluster: worker processes that compute the shards; this process does if None.

    Raises:
        Problem: wrong model, corpus, layer or plan; too little disk; a failed self-check.
    """
    request = request or make_request(config, model, text, progress)
    text = replaced(text, revision=request["corpus"].get("revision"))  # what the fingerprint names is what is read
    layers = dict.fromkeys(config.layer_list, request["model"]["d_model"])
    spec = StoreSpec(request, config.context, config.dtype, layers)
    before = Replaced(Path(folder))
    with _replacing(before, spec, replace, progress) as writer:
        if writer.complete:
            assert writer.root is not None and writer.n_sequences is not None
            before.forget()
            return HarvestResult(folder, writer.root, writer.n_sequences, "finished before", None)
        resumed = bool(writer.plan)
        lm = load(model, progress)
        if writer.n_sequences is None:
            write_sequences(writer, lm, text, config, progress)
        assert writer.n_sequences is not None
        crew = _crew(writer, lm, config, model, cluster)
        del lm  # of a cluster, it is the workers that need the memory
        if not writer.plan:
            plan, notice = crew.decide(writer.n_sequences * config.context)
            if notice:
                progress.note(notice)
            writer.record_plan(asdict(plan))
        left = missing_tokens(writer, config)
        _make_room(before, left * bytes_per_token(config, request["model"]["d_model"]))
        seconds, check = crew.run(writer, progress)
        root = writer.finish(card_facts(request, writer.plan))
        before.forget()
        result = HarvestResult(
            folder,
            root,
            writer.n_sequences,
            "resumed and finished" if resumed else "harvested",
            left / seconds if left else None,
        )
    _write_run_json(result, model, check, seconds)
    return result


def bytes_per_token(config: HarvestConfig, d_model: int) -> int:
    """Bytes on disk for a position: its activations at every layer, its token and its document."""
    itemsize = torch.finfo(getattr(torch, config.dtype)).bits // 8
    return len(config.layer_list) * d_model * itemsize + 8


@contextmanager
def _replacing(before: Replaced, spec: StoreSpec, replace: bool, progress: Progress) -> Iterator[StoreWriter]:
    """The writer of the folder; a store of another fingerprint, set aside first if that is wanted, comes back where
    no shard of the new one could be computed."""
    if replace:
        before.recover()
    writer = _open(before, spec, replace, progress)
    try:
        with writer:
            yield writer
    except BaseException:
        if not writer.has_shards:
            before.bring_back()
        raise


def _open(before: Replaced, spec: StoreSpec, replace: bool, progress: Progress) -> StoreWriter:
    """The writer of the folder, a store of another fingerprint set aside first if that is wanted."""
    folder = before.folder
    try:
        return StoreWriter.open(folder, spec, progress=progress)
    except OtherContent as other:
        if not replace:
            raise
        if before.set_aside():
            progress.note(f"parameters changed: replacing {folder.name} ({other.found})")
        return _open(before, spec, replace, progress)


def _make_room(before: Replaced, n_bytes: int) -> None:
    """Delete what the new store replaces before that is written, where the disk has no room for both."""
    try:
        check_disk(before.folder, n_bytes)
    except Problem:
        check_disk(before.folder, n_bytes - before.size)
        before.forget()


def _crew(
    writer: StoreWriter, lm: LanguageModel, config: HarvestConfig, model: ModelConfig, cluster: Cluster | None
) -> Alone | Shared:
    """Who computes the activations."""
    if cluster is None:
        return Alone(lm, config)
    from stages.harvest.shared import Shared  # its import takes a second
    from stages.harvest.worker import Job

    return Shared(cluster, Job.of(writer, config, model))


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
