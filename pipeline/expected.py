"""Against what the root digest of a store is checked: what the user says, a training, or DVC's lock file.

A manifest vouches for the files of its store and nobody for the manifest: whoever can write a store can write
another one that is consistent in itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.paths import Project
from store.files import PARTIAL, files_below
from store.manifest import NAME
from store.problem import Problem
from store.verify import BadFile

NOTHING = "nothing: a consistent forgery would pass"
LOCK = "dvc.lock"


@dataclass(frozen=True)
class Expected:
    """What a store's root digest should be."""

    source: str
    """Who says so."""
    compare: Callable[[Path, str | None], BadFile | None]
    """Folder and root of a store -> what is wrong with the root. The files must be as the manifest says."""
    reads_all: bool = False
    """Whether comparing reads every byte of the store."""

    @classmethod
    def nothing(cls) -> Expected:
        """Nobody says anything."""
        return cls(NOTHING, lambda folder, root: None)

    @classmethod
    def digest(cls, source: str, digest: str) -> Expected:
        """A root digest, or the first digits of one."""

        def compare(folder: Path, root: str | None) -> BadFile | None:
            same = root is not None and root.startswith(digest)
            return None if same else BadFile(NAME, f"root digest {digest}", f"root digest {root}")

        return cls(source, compare)


def expected(project: Project, folder: Path, text: str | None) -> Expected:
    """What `--expect` says, else dvc.lock, else nothing. Problem for what is neither a digest nor a training."""
    if text is None:
        return _from_dvc(project, folder) or Expected.nothing()
    if re.fullmatch("[0-9a-fA-F]{8,64}", text):
        return Expected.digest("--expect", text.lower())
    for path in (Path(text), Path(text) / "training.json", Path(text) / "cfg.json"):
        root = _store_root(path)
        if root is not None:
            return Expected.digest(project.show(path), root)
    raise Problem(
        "This does not say what root digest to expect.",
        where=f"--expect {text}",
        expected="8 to 64 hexadecimal digits, or the folder of a finished training",
        do="`pipeline store info` prints the root digest of a store",
        usage=True,
    )


def _store_root(path: Path) -> str | None:
    """The root digest of the store that a training recorded in `training.json`, or its SAE in `cfg.json`."""
    try:
        facts = json.loads(path.read_bytes())
        root = facts.get("store_root") or facts["metadata"]["store_root"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return root if isinstance(root, str) and root else None


def _from_dvc(project: Project, folder: Path) -> Expected | None:
    """What DVC recorded of the store: the hash of its folder, or that of its manifest where only this is tracked."""
    try:
        stages = yaml.safe_load((project.root / LOCK).read_text(encoding="utf-8"))["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", [])]
        recorded = {(project.root / out["path"]).resolve(): str(out["md5"]) for out in outs if "md5" in out}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None
    for place, md5, reads_all in ((folder / NAME, _md5, False), (folder, folder_md5, True)):
        wanted = recorded.get(place.resolve())
        if wanted is not None:
            return Expected(LOCK, _comparison(wanted, place, md5), reads_all)
    return None


def _comparison(wanted: str, place: Path, md5: Callable[[Path], str]) -> Callable[[Path, str | None], BadFile | None]:
    def compare(folder: Path, root: str | None) -> BadFile | None:
        found = md5(place)
        return None if found == wanted else BadFile(NAME, f"md5 {wanted} in {LOCK}", f"md5 {found}")

    return compare


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def folder_md5(folder: Path) -> str:
    """DVC's hash of a folder: md5 of the JSON list of its files, each with md5 and relative path."""
    files = [path for path in files_below(folder) if not path.name.endswith(PARTIAL)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        entries: list[dict[str, Any]] = [
            {"md5": md5, "relpath": path.relative_to(folder).as_posix()}
            for path, md5 in zip(files, threads.map(_md5, files), strict=True)
        ]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
