"""What unlearnings left behind, as comparisons and the report read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.files import digest
from store.problem import Problem
from store.progress import SILENT, Progress

UNLEARNING = "unlearning.json"
"""The file of the profile's own material."""
FILES = "unlearning*.json"
"""The files of all; those of other material have digits after their stem."""
RMU = "rmu"
"""What the baseline without an SAE is called."""
RMU_FOLDERS = f"{RMU}*/*"
"""Where it lies below the results of a profile: a folder a layer, `rmu/layer11`, with digits on another store."""
SUBJECT = ("run", RMU)
"""Of what decides an unlearning, that which it was done with."""
KEPT, SPENT = (0.99, 0.97, 0.95), (0.01, 0.03, 0.1)
"""Prices at which settings are compared: accuracy that is left on what is to be kept, SAEBench's first, and rises of
the loss on text to retain, in nats."""
Setting = Mapping[str, Any]
"""What was done, and what that did."""


@dataclass(frozen=True)
class Sweep:
    """The settings that were tried on one language model, beside the model as it is."""

    baseline: Setting
    """The untouched model."""
    settings: Sequence[Setting]
    """In the order of the sweep."""

    @property
    def windows(self) -> list[int]:
        """Tokens for which a latent stays clamped, those that were tried; 1 for what clamps nothing."""
        return sorted({_window(each) for each in self.settings})

    def of(self, window: int) -> Sweep:
        """Its settings of one window."""
        return Sweep(self.baseline, [each for each in self.settings if _window(each) == window])

    def most_forgotten(self, kept: float) -> Setting | None:
        """The least accuracy on what is to be forgotten, of the settings with at least such an accuracy on the rest."""
        enough = [each for each in self.settings if each["retain_accuracy"] >= kept]
        return min(enough, key=lambda each: each["forget_accuracy"], default=None)

    def largest_rise(self, spent: float) -> float | None:
        """The largest rise of the loss on text to forget, in nats, of the settings that raise that on text to retain
        by no more than so many."""
        rises = [(self.rise(each, "forget"), self.rise(each, "retain")) for each in self.settings]
        return max((forget for forget, retain in rises if retain <= spent), default=None)

    def rise(self, setting: Setting, text: str) -> float:
        """By how many nats a setting raises the loss on the text to `forget`, or to `retain`."""
        return float(setting[f"{text}_loss"] - self.baseline[f"{text}_loss"])


@dataclass(frozen=True)
class Unlearned:
    """One `unlearning.json`."""

    ids: tuple[str, str]
    """Release and id of the SAE: variant and seed of a training, RMU and its layer."""
    run: str | None
    """Identity of the SAE; None for RMU."""
    own: bool
    """Whether the material is the profile's own."""
    task: str
    """Digest of the material, the model and what was asked: unlearnings of one task can be compared."""
    material: Mapping[str, Any]
    """Sizes of texts and sets of questions."""
    config: Mapping[str, Any]
    """What was asked, a `UnlearnConfig`."""
    scores: Mapping[int, float]
    """SAEBench's score by window."""
    sweep: Sweep
    """Everything that was tried."""

    @classmethod
    def read(cls, path: Path) -> Unlearned:
        """Read a file that an unlearning wrote.

        Raises:
            Problem: it cannot be read, or is of an older version.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = document["eval_result_unstructured"]
            decided = found["decided"]
            return cls(
                (document["sae_lens_release_id"], document["sae_lens_id"]),
                decided.get("run"),
                path.name == UNLEARNING,
                digest({key: value for key, value in decided.items() if key not in SUBJECT}),
                found["material"],
                decided["config"],
                {int(window): score for window, score in found["scores_by_window"].items()},
                Sweep(found["baseline"], found["sweep"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Problem(
                "This unlearning cannot be read, or is of an older version.",
                where=path,
                found=error,
                do="unlearn again, or delete this file",
            ) from error


def read_unlearned(folder: Path, run: str | None, progress: Progress = SILENT) -> list[Unlearned]:
    """Every unlearning of an SAE in the folder of its results, or of RMU, that of the profile's own material first.

    One that cannot be read, or is of another SAE, is left out, which is said.
    """
    found = []
    for path in sorted(folder.glob(FILES), key=lambda path: (path.name != UNLEARNING, path.name)):
        try:
            unlearned = Unlearned.read(path)
        except Problem as problem:
            progress.note(f"left out: {problem.where}: {problem.what} {problem.do}")
            continue
        if unlearned.run == run:
            found.append(unlearned)
        else:
            progress.note(f"left out: {path}: its SAE is not the one that was evaluated; unlearn with this one")
    return found


def read_rmu(results: Path, progress: Progress = SILENT) -> dict[str, list[Unlearned]]:
    """Every unlearning by RMU, by its folder below the results of a profile."""
    folders = sorted(folder for folder in results.glob(RMU_FOLDERS) if folder.is_dir())
    return {folder.relative_to(results).as_posix(): read_unlearned(folder, None, progress) for folder in folders}


def task_of_the_profile(unlearned: Iterable[Unlearned]) -> str | None:
    """The task of all unlearnings on the profile's own material; None where its settings or texts were others for
    some."""
    tasks = {each.task for each in unlearned if each.own}
    return tasks.pop() if len(tasks) == 1 else None


def _window(setting: Setting) -> int:
    return int(setting.get("window", 1))
