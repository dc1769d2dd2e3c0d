"""`pipeline harvest`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import console
from pipeline.params import Params, Profile, read_params, use_profile, with_model
from pipeline.paths import Project, local_folder, suffix_of
from store.files import digest
from store.problem import Problem
from store.progress import Progress

if TYPE_CHECKING:
    from stages.harvest.cluster import Cluster
    from stages.harvest.harvest import HarvestResult


def run(
    name: str | None,
    model: str | None,
    layers: Sequence[int],
    tokens: int | None,
    folder: str | None,
    workers: int | None,
    scheduler: str | None,
    dry: bool,
) -> None:
    """Harvest what the profile and the flags ask for, into the path that this content has."""
    from stages.harvest.estimate import estimate
    from stages.harvest.harvest import harvest

    if workers and scheduler:
        raise Problem(
            "Either this machine's workers or those of a cluster.",
            expected="--workers or --scheduler",
            found="both",
            usage=True,
        )
    project = Project.here()
    params = read_params(project.root)
    with console.progress() as progress:
        plain, switched = choose_profile(params, name, model, layers)
        wanted = _wanted(project, plain, with_flags(plain, model, layers, tokens), folder, progress)
        asked = wanted.profile
        if switched:
            _switch(project, plain, params.profile.name, dry, progress)
        if dry:
            crew = _crew(workers, scheduler, progress)
            plan = estimate(wanted.target, asked.harvest, asked.model, asked.corpus, crew, progress)
            console.print_facts(plan.facts())
            return
        with _cluster(workers, scheduler, progress) as cluster:
            result = harvest(
                wanted.target,
                asked.harvest,
                asked.model,
                asked.corpus,
                request=wanted.request,
                replace=folder is None,
                cluster=cluster,
                progress=progress,
            )
    _print(project.show(wanted.target), asked, result)


class _Wanted(NamedTuple):
    """A harvest that was asked for."""

    profile: Profile
    """With the flags, and the revision of the corpus that its store has already."""
    request: dict[str, Any]
    """What decides the content of the store."""
    target: Path
    """The store."""


def _wanted(project: Project, plain: Profile, asked: Profile, folder: str | None, progress: Progress) -> _Wanted:
    """What `asked` means, which is `plain` with the flags; these give the store a suffix, unless `folder` names it."""
    from stages.harvest.request import at_recorded_revision, make_request

    named = local_folder(folder) if folder else None
    stores = project.stores(asked) if named is None else [named]
    found = replace(asked, corpus=at_recorded_revision(asked.corpus, stores))
    request = make_request(found.harvest, found.model, found.corpus, progress)
    suffix = suffix_of(digest(request)) if asked != plain else ""
    return _Wanted(found, request, named or project.store(found, suffix))


def _switch(project: Project, profile: Profile, before: str, dry: bool, progress: Progress) -> None:
    """Make another profile the current one, and say so."""
    made = "harvesting makes it the current one" if dry else "made it the current one"
    if not dry:
        use_profile(project.root, profile.name)
    progress.note(
        f"layer {profile.harvest.layers} is the hook point of profile {profile.name}: {made} "
        f"(back: pipeline use {before})"
    )


def _print(target: str, asked: Profile, result: HarvestResult) -> None:
    positions = result.n_sequences * asked.harvest.context
    done = {"finished before": "already complete, every byte verified; nothing to do"}
    print(f"{target}: {done.get(result.did, result.did)}")
    console.print_facts(
        {
            "sequences": f"{result.n_sequences:,} of {asked.harvest.context} positions ({positions:,} tokens)",
            "layers": asked.harvest.layers,
            **({"rate": f"{result.tokens_per_second:,.0f} tokens/s"} if result.tokens_per_second else {}),
            "root digest": result.root,
        }
    )


def _cluster(workers: int | None, scheduler: str | None, progress: Progress) -> AbstractContextManager[Cluster | None]:
    """The worker processes that the flags ask for, while they are needed."""
    if not workers and not scheduler:
        return nullcontext()  # and no import of Dask's cluster, which takes a second
    from stages.harvest.cluster import local_cluster, remote_cluster

    return remote_cluster(scheduler, progress) if scheduler else local_cluster(workers or 1)


def _crew(workers: int | None, scheduler: str | None, progress: Progress) -> tuple[int, int] | None:
    """How many workers that would be, and CPU threads in each; nothing is started."""
    if not workers and not scheduler:
        return None
    from stages.harvest.cluster import remote_cluster, threads_for

    if workers:
        return workers, threads_for(workers)
    with remote_cluster(scheduler or "", progress) as cluster:
        return cluster.n_workers, cluster.threads


def with_flags(profile: Profile, model: str | None, layers: Sequence[int], tokens: int | None) -> Profile:
    """The profile as the flags change it."""
    profile = with_model(profile, model)
    if layers:
        joined = _joined(layers)
        same = joined == str(profile.harvest.layers)
        profile = replace(profile, harvest=profile.harvest if same else replace(profile.harvest, layers=joined))
    return replace(profile, corpus=replace(profile.corpus, tokens=tokens)) if tokens else profile


def _joined(layers: Sequence[int]) -> str:
    """Layers as params.yaml writes them: `5-8-11`."""
    return "-".join(map(str, sorted(set(layers))))


def choose_profile(params: Params, name: str | None, model: str | None, layers: Sequence[int]) -> tuple[Profile, bool]:
    """The profile that a harvest means, and whether that makes another one current.

    A layer that the current model lacks, but that one other profile declares as its hook point, means
    that profile. It is switched to only if its weights can be had.

    Raises:
        Problem: the profile is unknown, or its weights cannot be had.
    """
    from stages.language_model.model import n_layers
    from stages.language_model.source import resolve

    profile = params.named(name)
    joined = _joined(layers)
    if name is not None or not layers or joined == str(profile.harvest.layers):
        return profile, False
    if max(layers) < n_layers(profile.model):
        return profile, False
    declared = [p for p in params.profiles.values() if str(p.harvest.layers) == joined]
    if len(declared) != 1:
        return profile, False
    if model is None:
        try:
            resolve(declared[0].model)
        except Problem as problem:
            count = n_layers(profile.model)
            raise Problem(
                f"Layer {joined} is the hook point of profile {declared[0].name}, whose weights cannot be had.",
                where=declared[0].model.source,
                expected=f"those weights, or a layer of {profile.model.name} (0 to {count - 1})",
                found=problem.found or problem.what,
                do=f"log in to the hub and accept the model's licence, or give the weights with --model PATH; "
                f"the current profile is still {profile.name}",
            ) from None
    return declared[0], True
