"""DVC experiments without a run of DVC: commits that `dvc exp` reads, made beside the branch and the working tree.

An experiment is a commit on top of the one that is checked out, under `refs/exps/` (DVC's documentation, "DVC
Experiments Overview"). `dvc exp run` would stash what is not committed, detach HEAD and link or copy the store for each
cell; here only objects and one reference are added to the repository, so a kill leaves nothing half done.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from dvc.repo.experiments.refs import ExpRefInfo

from store.problem import Problem

FOLDER = "experiment"
"""Where, in the commit of an experiment and nowhere else, its parameters and metrics are."""
NAMES = {"params": ["params.yaml"], "metrics": ["metrics.json"]}
"""`dvc.yaml` of that folder."""
LOCK = "dvc.lock"
"""Says which store there was; DVC takes it into experiments whether it is committed or not."""


@dataclass(frozen=True)
class Experiments:
    """The experiments of a project that git and DVC track, on top of the commit that is checked out."""

    root: Path
    """The project's folder."""
    head: str
    """That commit."""

    @classmethod
    def of(cls, root: Path) -> Experiments:
        """Those of a project. Raises a `Problem` that says why there can be none."""
        what = "Nothing will be recorded as a DVC experiment."
        if not (root / ".dvc").is_dir():
            raise Problem(what, where=root, found="no folder .dvc", do="run `git init`, `dvc init` and `git commit`")
        try:
            head = _git(root, "rev-parse", "--verify", "HEAD")
            _git(root, "var", "GIT_COMMITTER_IDENT")
        except Problem as problem:
            do = "commit something, and tell git who you are (user.name, user.email)"
            raise Problem(what, where=root, found=problem.found, do=do) from None
        return cls(root, head)

    def record(self, name: str, parameters: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
        """Save an experiment: the commit, what is changed in tracked files, and these numbers.

        Returns False where it is there already with the same numbers.

        Raises:
            Problem: git refuses.
        """
        files = {
            "dvc.yaml": yaml.safe_dump(NAMES),
            "metrics.json": json.dumps(metrics, indent=2) + "\n",
            "params.yaml": yaml.safe_dump(dict(parameters), sort_keys=False),
        }
        blobs = {file: _git(self.root, "hash-object", "-w", "--stdin", text=text) for file, text in files.items()}
        reference = str(ExpRefInfo(self.head, name))
        prefix = _git(self.root, "rev-parse", "--show-prefix") + FOLDER
        if self._recorded(f"{reference}:{prefix}") == blobs:
            return False
        tree = self._tree({f"{prefix}/{file}": blob for file, blob in blobs.items()})
        commit = _git(self.root, "commit-tree", tree, "-p", self.head, "-m", f"experiment {name}")
        _git(self.root, "update-ref", reference, commit)
        return True

    def _recorded(self, folder: str) -> dict[str, str]:
        """The blobs in a folder of a commit by name; none where there is no such folder."""
        try:
            lines = _git(self.root, "ls-tree", "--full-tree", folder).splitlines()
        except Problem:
            return {}
        return {name: entry.split()[2] for entry, name in (line.split("\t") for line in lines)}

    def _tree(self, blobs: Mapping[str, str]) -> str:
        """The tree of the commit, of changes to tracked files and of these blobs, by way of an index of its own."""
        with TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            own = self.root / _git(self.root, "rev-parse", "--git-path", "index")
            if own.exists():  # with what was added and not committed
                shutil.copyfile(own, index["GIT_INDEX_FILE"])
            _git(self.root, "add", "--update", ":/", variables=index)
            if (self.root / LOCK).exists():
                _git(self.root, "add", "--force", LOCK, variables=index)
            for path, blob in blobs.items():
                _git(self.root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", variables=index)
            return _git(self.root, "write-tree", variables=index)


def _git(root: Path, *arguments: str, text: str | None = None, variables: Mapping[str, str] | None = None) -> str:
    """What git prints. Raises a `Problem` with what it says where it fails."""
    environment = {**os.environ, **(variables or {})}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=environment, input=text, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Problem("git is not installed.", found="no program git") from None
    if done.returncode:
        raise Problem(f"git {arguments[0]} failed.", where=root, found=done.stderr.strip())
    return done.stdout.strip()
