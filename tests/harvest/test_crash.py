"""A harvest that is killed, or finds the disk full, ends with the bytes of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forks
from tests.project import TinyProject
from tests.store.make import content

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_harvest_killed_ten_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert_survives(tmp_path, 0, 10)


@pytest.mark.slow
def test_a_harvest_killed_fifty_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    assert_survives(tmp_path, 1, 50)


def assert_survives(folder: Path, seed: int, kills: int) -> None:
    """Fork harvests from a warmed process and kill them all along their way."""
    command = [sys.executable, "-m", "tests.harvest.crash", str(folder), str(seed), str(kills)]
    result = subprocess.run(command, cwd=ROOT, env=forks.ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    killed = Counter(line["in"] for line in lines if line.get("killed"))
    assert killed.total() == kills and len(killed) >= 3 and killed["shards"] >= kills // 10, killed
    ends = [line["equal"] for line in lines if "equal" in line]
    assert len(ends) >= kills // 2 and all(ends)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, which `resize` makes larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk: only root may mount one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def resize(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_is_one_message_and_loses_nothing(project: TinyProject, small_disk: Path) -> None:
    """The disk grows step by step, so that it is full at every stage of the harvest."""
    asked = ("harvest", "--tokens", "320", "--store")
    assert project(*asked, "whole")[0] == 0
    folder, full, kept = small_disk / "store", 0, 0
    project.patch.setattr("stages.harvest.harvest.check_disk", lambda *_: None)  # as if it had been filled since then
    for kilobytes in range(16, 600, 8):
        resize(small_disk, kilobytes)
        status, out, err = project(*asked, str(folder))
        if status == 0:
            break
        full += 1
        assert status == 1 and "No space left on device" in err and str(folder) in err and "Traceback" not in err
        assert "goes on where it stopped" in err
        shards = sum("resid_post/c/" in name for name in content(folder))
        assert shards >= kept
        kept = shards
    assert full >= 5 and kept >= 2 and "resumed and finished" in out
    assert content(folder) == content(project.root / "whole")
