"""Reading ahead gives the same batches, never more than was asked for, and hides no error."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from store import ActivationStore, prefetch
from store.problem import Problem
from store.windows import WindowBatch, Windows
from tests.store.make import make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return make(tmp_path_factory.mktemp("prefetch") / "store")


def reading_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_the_batches_are_those_of_the_windows(shared: ActivationStore, ahead: int) -> None:
    windows = shared.windows(3, batch_rows=4, seed=5)
    found = 0
    for step, batch in enumerate(prefetch(windows, 3, 30, ahead=ahead), start=3):
        expected = windows.batch(step)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch[:3], expected[:3], strict=True))
        assert batch.rows.tolist() == expected.rows.tolist()
        found += 1
    assert found == 27 and reading_threads() == 0


def test_a_batch_stays_until_the_next_is_asked_for(shared: ActivationStore) -> None:
    windows = shared.windows(3, batch_rows=4)
    batches = prefetch(windows, ahead=1)
    for step in range(6):
        batch = next(batches)
        time.sleep(0.01)  # for the thread to read as far as it may
        assert torch.equal(batch.x, windows.batch(step).x)
    batches.close()


def test_memory_is_used_again(shared: ActivationStore) -> None:
    pointers = {batch.x.data_ptr() for batch in prefetch(shared.windows(3, batch_rows=4), 0, 40, ahead=2)}
    assert len(pointers) == 3


class Counted(Windows):
    """Windows that know how far they were read."""

    read = 0

    def batch(self, step: int, out: torch.Tensor | None = None) -> WindowBatch:
        if step == 9:
            raise Problem("no batch 9")
        self.read = step + 1
        return super().batch(step, out)


def test_it_reads_ahead_and_no_further(shared: ActivationStore) -> None:
    windows = Counted(shared, 3, "train", 4, 0)
    batches = prefetch(windows, ahead=3)
    next(batches)
    deadline = time.monotonic() + 10
    while windows.read < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert windows.read == 4
    batches.close()
    assert reading_threads() == 0


def test_an_error_of_the_thread_reaches_the_consumer(shared: ActivationStore) -> None:
    seen = 0
    with pytest.raises(Problem, match="no batch 9"):
        for _ in prefetch(Counted(shared, 3, "train", 4, 0)):
            seen += 1
    assert seen == 9 and reading_threads() == 0


def test_leaving_early_stops_the_thread(shared: ActivationStore) -> None:
    for _ in prefetch(shared.windows(3, batch_rows=4)):
        break
    assert reading_threads() == 0


def test_reading_no_batch_ahead_is_refused(shared: ActivationStore) -> None:
    with pytest.raises(ValueError, match="ahead"):
        next(prefetch(shared.windows(3, batch_rows=4), ahead=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches(tmp_path: Path, shared: ActivationStore) -> None:
    windows = shared.windows(3, batch_rows=4)
    kept = list(prefetch(windows, 0, 20, device="cuda"))
    for step, batch in enumerate(kept):
        assert batch.x.device.type == "cuda" and torch.equal(batch.x.cpu(), windows.batch(step).x)
