"""The cells of a sweep: each a variant with some of its numbers replaced, at sizes of which some are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stages.sae.table import find_variant
from stages.sae.variant import Variant, control_of
from stages.sweep.table import FILE, Label, Sweep
from stages.train.config import TrainConfig, TrainSizes, make_config
from store.problem import Problem

NOT_NUMBERS = ("name", "source", "reading", "reported", "control")
"""Fields of a variant that say what it is; no axis replaces them."""
SIZES, STEPS = "train", "steps"
"""Under this key, the sizes of the profile; and that one of them which no axis replaces."""


@dataclass(frozen=True)
class Cell:
    """One training of a sweep."""

    axes: Mapping[str, Label]
    """By axis, what its value is called."""
    config: TrainConfig
    """What is trained."""

    @property
    def name(self) -> str:
        """`window3,window=3,weight=0.1`: the variant and where the cell lies."""
        return ",".join([self.config.variant.name, *(f"{axis}={label}" for axis, label in self.axes.items())])


def cells_of(sweep: Sweep, variants: Mapping[str, Variant], sizes: TrainSizes) -> Iterator[Cell]:
    """All cells of a sweep, with the sizes of a profile.

    Raises:
        Problem: an unknown variant, a path that leads nowhere, a value that cannot stand there.
    """
    for grid in sweep.grids:
        for name, labels in product(grid.variants, product(*(axis.values for axis in grid.axes.values()))):
            chosen = dict(zip(grid.axes, labels, strict=True))
            numbers = {axis.replaces: axis.values[chosen[key]] for key, axis in grid.axes.items()}
            base, plus, control = name.partition("+")
            row, own = with_numbers(find_variant(variants, base, asked_in=FILE), sizes, numbers)
            row = control_of(row, control) if plus else row
            yield Cell(chosen, make_config(row, own, seed=sweep.seed, steps=sweep.steps))


def with_numbers(row: Variant, sizes: TrainSizes, numbers: Mapping[str, Any]) -> tuple[Variant, TrainSizes]:
    """A variant and sizes with the numbers at some dotted paths replaced, as strictly checked as their tables are."""
    values = asdict(row)
    fixed = {key: values.pop(key) for key in NOT_NUMBERS}
    tree: Any = {**values, SIZES: {key: value for key, value in asdict(sizes).items() if key != STEPS}}
    for path, value in numbers.items():
        tree = _replaced(tree, path.split("."), value, f"{row.name}, {path}")
    own = tree.pop(SIZES)
    try:
        return TypeAdapter(Variant).validate_python({**fixed, **tree}), TypeAdapter(TrainSizes).validate_python(
            {**own, STEPS: sizes.steps}
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise Problem(
            f"{row.name} cannot have this value for {key!r}.",
            where=f"{FILE}: {', '.join(numbers)}",
            expected=first["msg"],
            found=repr(first["input"]),
            usage=True,
        ) from None


def _replaced(tree: Any, keys: Sequence[str], value: Any, where: str) -> Any:
    """`tree` with another value at a path. Raises a `Problem` that says what is there where the path leads nowhere."""
    if not keys:
        return value
    children = tree if isinstance(tree, dict) else {}
    if isinstance(tree, list | tuple):
        children = {str(place): child for place, child in enumerate(tree)}
    key, *rest = keys
    if key not in children:
        raise Problem(
            f"There is no {key!r} that a sweep could replace.",
            where=f"{FILE}: {where}",
            expected=f"one of {', '.join(children)}" if children else f"nothing below it: it is {tree!r}",
            found=key,
            usage=True,
        )
    changed = {**children, key: _replaced(children[key], rest, value, where)}
    return changed if isinstance(tree, dict) else list(changed.values())
