"""The metrics log of a run: DVCLive's files, without its network and git."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvclive import Live

from store.files import files_below, write_atomically


class _OfflineLive(Live):
    """DVCLive as a writer of files: it neither opens the git repository nor looks for DVC Studio."""

    def _init_dvc(self) -> None:
        return

    def _init_studio(self) -> None:
        self._studio_events_to_skip = {"start", "data", "done"}


class MetricsLog:
    """One row a logged step in `plots/metrics/<name>.tsv` for every metric; the latest ones in `metrics.json`."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the log of a run that is at `step`: rows from there on, left by a run that was killed, go."""
        if step > 0:
            _cut_back(folder, step)
        elif folder.exists():
            shutil.rmtree(folder)
        self._live = _OfflineLive(str(folder), resume=step > 0, save_dvc_exp=False, dvcyaml=None)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row for a step, counted from 0."""
        self._live.step = step
        for name in sorted(metrics):
            self._live.log_metric(name, metrics[name])
        # Not `next_step`, which also signals to an editor through a file that it syncs to disk.
        self._live.make_summary()

    def latest(self) -> dict[str, float]:
        """The metrics of the last row by name, `group/name` for those of a group."""
        return _flat({name: value for name, value in self._live.summary.items() if name != "step"})


def has_row(folder: Path, step: int) -> bool:
    """Whether a log has the whole row of a step: one that lost it cannot be gone on with."""
    tables = (path.read_text(encoding="utf-8").splitlines(keepends=True) for path in files_below(folder / "plots"))
    return any(row.endswith("\n") and row.startswith(f"{step}\t") for table in tables for row in table)


def _cut_back(folder: Path, step: int) -> None:
    """Drop rows of `step` and later, and torn ones; rebuild `metrics.json`, which may be torn, from what stays.

    Files are replaced before DVCLive appends to them: they may be links into DVC's cache.
    """
    kept: dict[Path, list[str]] = {}
    plots = folder / "plots" / "metrics"
    for path in files_below(plots):
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        kept[path] = [row for row in rows if row.endswith("\n") and _step_of(row) < step]
        if kept[path]:
            write_atomically(path, "".join([header, *kept[path]]).encode())
        else:
            path.unlink()  # DVCLive heads the file that it begins
    begun = {path.relative_to(plots).with_suffix(""): rows for path, rows in kept.items() if rows}
    first = min((_step_of(rows[0]) for rows in begun.values()), default=0)
    summary: dict[str, Any] = {}
    # In the order in which DVCLive met them: by step and name, its own count after those of the first step.
    for name, rows in sorted(begun.items(), key=lambda item: (_step_of(item[1][0]), item[0].as_posix())):
        if _step_of(rows[0]) > first:
            summary.setdefault("step", first)
        *groups, last = name.parts
        group = summary
        for key in groups:
            group = group.setdefault(key, {})
        group[last] = float(rows[-1].split("\t")[1])
    if begun:
        summary["step"] = max(_step_of(rows[-1]) for rows in begun.values())
    write_atomically(folder / "metrics.json", (json.dumps(summary, indent=4) + "\n").encode())  # as DVCLive does


def _step_of(row: str) -> int:
    return int(row.split("\t")[0])


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in summary.items():
        flat |= {f"{name}/{key}": of for key, of in _flat(value).items()} if isinstance(value, dict) else {name: value}
    return flat
