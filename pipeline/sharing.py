"""`pipeline store push | pull`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project, local_folder
from store.problem import Problem

if TYPE_CHECKING:
    from store import Transfer


def push(places: Sequence[str], compress: bool, profile: str | None, json: bool) -> None:
    """Copy a store to a URL: `places` is its folder and the URL, or the URL alone for the profile's store."""
    import store

    project = Project.here()
    named = read_params(project.root).named(profile)
    if not 1 <= len(places) <= 2:
        raise Problem("A push needs one address.", expected="[DIR] URL", found=" ".join(places), usage=True)
    folder = local_folder(places[0]) if len(places) == 2 else project.store(named)
    with console.progress() as progress:
        done = store.push(folder, places[-1], compress, progress)
    did = "already there, every file of its size" if done.already_there else f"pushed {project.show(folder)}"
    _report(places[-1], did, done, json)


def pull(url: str, named: str | None, profile: str | None, json: bool) -> None:
    """Copy a store from a URL into a folder: `named`, else the profile's if one is given, else named as the URL is."""
    import store

    project = Project.here()
    current = read_params(project.root).named(profile)
    if named is not None:
        folder = local_folder(named)
    elif profile is not None:
        folder = project.store(current)
    else:
        folder = project.root / "data" / "stores" / _last_part(url)
    with console.progress() as progress:
        done = store.pull(url, folder, progress)
    did = "already there, every file of its size" if done.already_there else f"pulled from {url}"
    _report(project.show(folder), did, done, json)


def _report(place: str, did: str, done: Transfer, json: bool) -> None:
    facts: dict[str, Any] = {
        "root digest": done.root,
        "files": done.n_files,
        "bytes": done.n_bytes,
        "bytes at the URL": done.n_remote_bytes,
        "bytes moved now": done.n_moved,
    }
    if json:
        console.print_json({"store": place, "already there": done.already_there, **facts})
        return
    print(f"{place}: {did}")
    console.print_facts({name: f"{fact:,}" if isinstance(fact, int) else fact for name, fact in facts.items()})


def _last_part(url: str) -> str:
    name = url.rstrip("/").rsplit("/", 1)[-1]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise Problem(
            "This address does not end in a name for the store.",
            expected="an address such as s3://bucket/stores/NAME",
            found=url,
            do="name the folder too: pipeline store pull URL DIR",
            usage=True,
        )
    return name
