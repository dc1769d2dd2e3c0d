"""The table of variants: the schema of `variants.yaml` and its reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from store.problem import Problem

_STRICT_KEYS = ConfigDict(extra="forbid", allow_inf_nan=False)

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Steps = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=_STRICT_KEYS)
class SparsifierRow:
    """How pre-activations become codes."""

    kind: Literal["relu", "topk"]
    """`topk` keeps the k largest of a token, with the k of the profile."""


@dataclass(frozen=True, config=_STRICT_KEYS)
class ObjectiveRow:
    """Weights of the loss terms, in normalised units."""

    l1: Weight
    """Weight of the sum of a token's codes."""
    l1_warmup: Steps
    """Steps over which that weight rises linearly from 0."""
    aux: Weight
    """Weight of the auxiliary loss, in which dead latents model the residual."""
    dead_after_tokens: Annotated[int, Field(gt=0)]
    """A latent that has not fired for so many kept tokens counts as dead."""


@dataclass(frozen=True, config=_STRICT_KEYS)
class OptimizerRow:
    """The optimiser and its learning rate over time."""

    name: Literal["adam"]
    """Adam with betas 0.9 and 0.999."""
    lr: Positive
    """Peak learning rate."""
    warmup: Steps
    """Steps over which the learning rate rises linearly from 0."""
    decay: Annotated[float, Field(ge=0, lt=1)]
    """The last share of the steps, over which the learning rate falls linearly to 0."""
    clip: Positive | None
    """Largest norm of the gradient over all parameters; null for none."""


@dataclass(frozen=True, config=_STRICT_KEYS)
class Variant:
    """A row of the table: where an SAE comes from, its parts and its numbers."""

    name: str
    """The row's key."""
    source: str
    """The publication or the run of a seed."""
    reading: str
    """How the row reads what its source leaves open."""
    sparsifier: SparsifierRow
    """How pre-activations become codes."""
    objective: ObjectiveRow
    """What is minimised."""
    optimizer: OptimizerRow
    """How it is minimised."""


def load_variants(path: Path) -> dict[str, Variant]:
    """Read the table. Raises a usage `Problem` that names the first bad key or value and what is allowed."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem("The table of variants cannot be read.", where=path, found=error.strerror) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem("The table of variants is not YAML.", where=path, found=error, usage=True) from None
    if not isinstance(table, dict) or not table:
        raise Problem("The table of variants has no rows.", where=path, usage=True)
    return {str(name): _variant(str(name), row, path) for name, row in table.items()}


def find_variant(variants: Mapping[str, Variant], name: str) -> Variant:
    """The variant of that name; a usage `Problem` that lists the table's names where there is none."""
    if name not in variants:
        known = ", ".join(sorted(variants))
        raise Problem(f"There is no variant {name!r}.", expected=f"one of {known}", found=name, usage=True)
    return variants[name]


def _variant(name: str, row: Any, path: Path) -> Variant:
    if not isinstance(row, dict) or "name" in row:
        raise Problem(f"Variant {name!r} is not a row of keys and values without a key 'name'.", where=path, usage=True)
    try:
        return TypeAdapter(Variant).validate_python({**row, "name": name})
    except ValidationError as error:
        raise _explain(error, name, path) from None


def _explain(error: ValidationError, name: str, path: Path) -> Problem:
    """The first of pydantic's complaints as a sentence with the allowed values."""
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    where = f"{path}: {'.'.join([name, *keys])}"
    if first["type"] in ("unexpected_keyword_argument", "missing", "missing_argument"):
        allowed = ", ".join(field for field in _keys_at(keys[:-1]) if field != "name" or len(keys) > 1)
        what = "lacks the key" if "missing" in first["type"] else "has an unknown key"
        return Problem(f"Variant {name!r} {what} {keys[-1]!r}.", where=where, expected=f"keys {allowed}", usage=True)
    return Problem(
        f"Variant {name!r} has an impossible value for {'.'.join(keys)!r}.",
        where=where,
        expected=first["msg"],
        found=repr(first["input"]),
        usage=True,
    )


def _keys_at(path: list[str]) -> list[str]:
    """The keys that the schema knows at a place in a row."""
    schema: Any = Variant
    for key in path:
        hint = get_type_hints(schema)[key]
        schema = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), hint)
    return [field.name for field in fields(schema)]
