"""Documents that really stand as often as a replicate of the bootstrap draws them: slow, and no sums of weights."""

from __future__ import annotations

import numpy as np

from stages.evaluate.bootstrap import drawn
from tests.evaluate.temporal.patterns_literal import stretches


def repeated(
    arrays: list[list[np.ndarray]], documents: list[np.ndarray], replicate: int, followed: bool = False
) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
    """One batch of each of `arrays`, and its documents: every run of a document's tokens in a row of its own, as often
    as the document is drawn. `followed` leaves the first token of the next document beside it."""
    rows: list[list[np.ndarray]] = [[] for _ in arrays]
    names: list[np.ndarray] = []
    for batch, row, start, stop in stretches(documents):
        document = documents[batch][row]
        name = np.full_like(document, -1)
        name[start:stop] = 0
        behind = np.flatnonzero(document[stop:] >= 0)
        if followed and len(behind):
            name[stop + behind[0]] = 1
        for _ in range(int(drawn(document[start : start + 1])[replicate, 0])):
            names.append(np.where(name < 0, -1, name + 2 * len(names)))
            for found, array in zip(rows, arrays, strict=True):
                found.append(array[batch][row])
    return [[np.stack(found)] for found in rows], [np.stack(names)]
