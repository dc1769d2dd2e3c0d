"""What a worker process does: whole shards of a store that another process, the coordinator, has open.

A worker may be killed, be presumed dead and go on, or do what another does as well: a shard is a function of the
store's request and plan alone, its files are whole or absent, and they count once the coordinator has recorded them.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from stages.harvest.activations import harvest_shard
from stages.harvest.config import HarvestConfig
from stages.harvest.plan import HarvestPlan, decide, follow
from stages.harvest.request import CONTENT_VERSION
from stages.harvest.selfcheck import SelfCheck, self_check
from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.runner import LayerRunner
from store import PartialStore
from store.problem import Problem
from store.progress import SILENT
from store.records import FileRecord

Identity = tuple[tuple[str, str], ...]
"""File of a model -> sha256, as pairs."""

_FORWARD_PASS = threading.Lock()
"""One at a time in a process, whose other thread writes the shard before: as in a harvest without workers."""


@dataclass(frozen=True)
class Job:
    """Which store, from which model. The plan is the store's own."""

    folder: Path
    """The store, under a path that every worker has."""

    fingerprint: str
    """What its manifest must say."""

    config: HarvestConfig
    """What is asked for."""

    model: ModelConfig
    """Where every worker has the weights; they must be those of the request."""

    @classmethod
    def of(cls, store: PartialStore, config: HarvestConfig, model: ModelConfig) -> Job:
        """The job of `store`, in paths that do not depend on the working directory."""
        weights = Path(model.source).expanduser()
        source = str(weights.absolute()) if weights.exists() else model.source
        return cls(store.folder.absolute(), store.fingerprint, config, replace(model, source=source))


def decide_plan(job: Job, tokens: int, threads: int) -> tuple[HarvestPlan, str | None]:
    """The plan of this worker's machine for `tokens` positions: workers compute, so one of them decides."""
    with _named_after_this_worker(), _FORWARD_PASS:
        return decide(job.config, _model(job.model, _identity(_store(job))), tokens, threads)


def write_shard(job: Job, shard: int) -> dict[str, FileRecord]:
    """Compute one shard and write its files; returns the records that the coordinator has to enter.

    Raises Problem, naming this worker, where it cannot follow the plan or does not see the store.
    """
    with _named_after_this_worker():
        store = _store(job)
        with _FORWARD_PASS:
            _, runner, plan = _ready(job, store)
            payload = harvest_shard(store.tokens(shard), runner, job.config, plan, SILENT)
        store.confirm()
        return store.put_shard(shard, payload)


def check(job: Job) -> SelfCheck:
    """The self-check, on a machine of the kind that computed the shards."""
    with _named_after_this_worker(), _FORWARD_PASS:
        store = _store(job)
        lm, runner, plan = _ready(job, store)
        return self_check(store, lm, runner, job.config, plan)


def _store(job: Job) -> PartialStore:
    store = PartialStore.attach(job.folder, job.fingerprint)
    if store.request["content_version"] != CONTENT_VERSION:
        raise Problem(
            "This worker runs another release of tsae-pipeline.",
            expected=f"content version {store.request['content_version']}",
            found=CONTENT_VERSION,
            do="install the same release for all workers",
        )
    return store


def _identity(store: PartialStore) -> Identity:
    described = store.request["model"]
    return tuple(sorted((name, value) for name, value in described.items() if name not in ("name", "dtype", "d_model")))


def _ready(job: Job, store: PartialStore) -> tuple[LanguageModel, LayerRunner, HarvestPlan]:
    """The model, loaded and compiled once in this process, under the store's plan, if this machine can follow it."""
    identity = _identity(store)
    lm = _model(job.model, identity)
    plan = follow(store.plan, lm)
    return lm, _runner(job.model, identity, plan, tuple(job.config.layer_list)), plan


@lru_cache(maxsize=1)
def _model(model: ModelConfig, identity: Identity) -> LanguageModel:
    lm = load(model)
    if tuple(sorted(lm.identity.items())) != identity:
        raise Problem(
            "This worker has other weights than those that the store was begun with.",
            where=model.source,
            expected=", ".join(f"{name} {sha256[:12]}" for name, sha256 in identity),
            found=", ".join(f"{name} {sha256[:12]}" for name, sha256 in sorted(lm.identity.items())),
        )
    return lm


@lru_cache(maxsize=1)
def _runner(model: ModelConfig, identity: Identity, plan: HarvestPlan, layers: tuple[int, ...]) -> LayerRunner:
    return LayerRunner(_model(model, identity), layers, compile=plan.compiled)


@contextmanager
def _named_after_this_worker() -> Iterator[None]:
    try:
        yield
    except Problem as problem:
        place = f"worker process {os.getpid()} on {socket.gethostname()}"
        problem.where = f"{problem.where}, {place}" if problem.where else place
        raise
