"""Batches that are there before they are asked for: a thread reads ahead while the consumer computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from queue import Queue
from threading import Thread

import torch
from torch import Tensor

from store.windows import WindowBatch, Windows


def prefetch(
    windows: Windows, start: int = 0, stop: int | None = None, *, ahead: int = 2, device: str | torch.device = "cpu"
) -> Iterator[WindowBatch]:
    """The batches `start`, `start + 1`, ... of `windows`, `ahead` of them read early; without end where `stop` is None.

    The same batches as `windows.batch(step)`, on `device`. On the CPU the memory of a batch is used again once the
    next one is asked for: clone what should stay. A GPU gets copies of its own, made from pinned memory on a stream of
    their own, so that reading, copying and computing overlap. Closing the iterator stops the thread; what went wrong
    in the thread is raised here.
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}, expected at least 1")
    steps = count(start) if stop is None else range(start, stop)
    reader = _Reader(windows, steps, ahead, torch.device(device))
    thread = Thread(target=reader.run, name="prefetch", daemon=True)
    thread.start()
    try:
        yield from reader.batches()
    finally:
        reader.stop()
        thread.join()


@dataclass
class _Slot:
    """Memory for one batch."""

    buffer: Tensor
    """Pinned where a GPU copies from it."""
    copied: torch.cuda.Event | None = None
    """When the last copy from it was done."""


class _Reader:
    """The thread's side: fills slots that are free and hands them over in order."""

    def __init__(self, windows: Windows, steps: Iterable[int], ahead: int, device: torch.device) -> None:
        self._windows = windows
        self._steps = steps
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: Queue[tuple[WindowBatch, _Slot] | BaseException | None] = Queue()
        self._free: Queue[_Slot | None] = Queue()
        for _ in range(ahead + 1):  # one is with the consumer
            buffer = torch.empty(windows.shape, dtype=windows.dtype, pin_memory=self._stream is not None)
            self._free.put(_Slot(buffer))
        self._stopped = False

    def run(self) -> None:
        try:
            for step in self._steps:
                slot = self._free.get()
                if slot is None or self._stopped:
                    return
                self._ready.put((self._read(step, slot), slot))
            self._ready.put(None)
        except BaseException as error:  # whatever it is, the consumer has to hear of it
            self._ready.put(error)

    def _read(self, step: int, slot: _Slot) -> WindowBatch:
        if slot.copied is not None:
            slot.copied.synchronize()
        batch = self._windows.batch(step, slot.buffer)
        if self._stream is None:
            return batch
        with torch.cuda.stream(self._stream):
            x, document, tokens = (part.to(self._device, non_blocking=True) for part in batch[:3])
            slot.copied = self._stream.record_event()
        return WindowBatch(x, document, tokens, batch.rows)

    def batches(self) -> Iterator[WindowBatch]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            batch, slot = item
            if slot.copied is not None:
                stream = torch.cuda.current_stream(self._device)
                stream.wait_event(slot.copied)
                for part in batch[:3]:
                    part.record_stream(stream)
            yield batch
            self._free.put(slot)

    def stop(self) -> None:
        self._stopped = True
        self._free.put(None)
