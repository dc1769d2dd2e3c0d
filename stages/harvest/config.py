"""What a harvest is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from store.problem import Problem

Packing = Literal["concat", "per_document"]
StorageDtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class HarvestConfig:
    """The part of a profile that shapes its activation store."""

    layers: int | str
    """Layers whose output residual stream is stored, counted from 0: `11`, or several as `5-8-11`."""

    context: int = 128
    """Positions in a stored sequence, the leading BOS included."""

    packing: Packing = "concat"
    """`concat`: documents follow each other in a row, BOS between them. `per_document`: one a row."""

    heldout: float = 0.1
    """Share of the documents kept out of training, chosen by a hash of their text."""

    dtype: StorageDtype = "bfloat16"
    """Number format on disk."""

    batch_rows: int = 8
    """Sequences in a forward pass. On two cores batches of 8 beat 32: their activations fit the caches."""

    def __post_init__(self) -> None:
        _ = self.layer_list
        if self.context < 2:
            raise Problem(
                "A sequence needs a BOS and at least one token.",
                where="harvest.context",
                expected="2 or more",
                found=self.context,
                usage=True,
            )
        if not 0 < self.heldout < 1:
            raise Problem(
                "Evaluation needs heldout documents, training needs the others.",
                where="harvest.heldout",
                expected="a share between 0 and 1, both excluded",
                found=self.heldout,
                usage=True,
            )
        if self.batch_rows < 1:
            raise Problem(
                "A forward pass needs a sequence.",
                where="harvest.batch_rows",
                expected="1 or more",
                found=self.batch_rows,
                usage=True,
            )

    @property
    def layer_list(self) -> list[int]:
        """The layers as numbers, ascending."""
        parts = str(self.layers).split("-")
        if not all(part.isdigit() for part in parts) or sorted({int(p) for p in parts}) != [*map(int, parts)]:
            raise Problem(
                "These are not layers.",
                where="harvest.layers",
                expected="a layer number, or several in ascending order joined by '-', such as 5-8-11",
                found=self.layers,
                usage=True,
            )
        return [int(part) for part in parts]
