"""The table of sweeps: the schema of `sweeps.yaml`, its reading, and what mistakes in it are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.names import fit
from stages.sae.architecture import STRICT_KEYS, Count
from store.problem import Problem

FILE = "sweeps.yaml"


def _labelled(values: Any) -> Any:
    """A list of values as a mapping from what they are called."""
    plain = isinstance(values, list) and all(isinstance(value, bool | int | float | str) for value in values)
    return {value: value for value in values} if plain else values


Name = Annotated[str, AfterValidator(fit)]
Label = Annotated[bool | int | float | str, AfterValidator(fit)]


@dataclass(frozen=True, config=STRICT_KEYS)
class Axis:
    """Something that a grid varies."""

    replaces: str
    """Dotted path of what is replaced: into the variant's row, or `train.` and a size of the profile."""
    values: Annotated[Mapping[Label, Any], BeforeValidator(_labelled), Field(min_length=1)]
    """What it takes, by what tables and folders call it; a list of numbers or texts goes by itself."""


@dataclass(frozen=True, config=STRICT_KEYS)
class Grid:
    """Every combination of variants and of the values of axes."""

    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    """Rows of variants.yaml or their controls, which follow the replaced numbers."""
    axes: Mapping[Name, Axis] = field(default_factory=dict)
    """What varies, by name; nothing for the variants as they are."""


@dataclass(frozen=True, config=STRICT_KEYS)
class Sweep:
    """Grids of trainings that answer one question."""

    asks: str
    """The question, and who asked it."""
    steps: Count
    """Optimiser steps of every training."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of every training."""
    grids: Annotated[tuple[Grid, ...], Field(min_length=1)]
    """What is trained."""

    @property
    def axes(self) -> list[str]:
        """The names of the axes of all grids."""
        return list(dict.fromkeys(name for grid in self.grids for name in grid.axes))


def load_sweeps(path: Path) -> dict[str, Sweep]:
    """Read the table. Raises a usage `Problem` that names the first bad key or value and what is allowed."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem("The table of sweeps cannot be read.", where=path, found=error.strerror, usage=True) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem("The table of sweeps is not YAML.", where=path, found=error, usage=True) from None
    try:
        return TypeAdapter(dict[Name, Sweep]).validate_python(content)
    except ValidationError as error:
        raise _explain(error, path) from None


def find_sweep(sweeps: Mapping[str, Sweep], name: str) -> Sweep:
    """The sweep of that name; a usage `Problem` that lists the names where there is none."""
    if name not in sweeps:
        raise Problem(
            f"There is no sweep {name!r}.", where=FILE, expected=f"one of {', '.join(sweeps)}", found=name, usage=True
        )
    return sweeps[name]


def _explain(error: ValidationError, path: Path) -> Problem:
    """The first of pydantic's complaints as a sentence with the allowed values."""
    first = error.errors()[0]
    *place, key = [str(part) for part in first["loc"] if part != "[key]"] or ["the table"]
    where = f"{path}: {'.'.join(place)}" if place else path
    if first["type"] in ("unexpected_keyword_argument", "missing", "missing_argument"):
        schema = Axis if "axes" in place else Grid if "grids" in place else Sweep
        what = "A sweep lacks the key" if "missing" in first["type"] else "A sweep has an unknown key"
        known = ", ".join(each.name for each in fields(schema))
        return Problem(f"{what} {key!r}.", where=where, expected=f"keys {known}", usage=True)
    return Problem(
        f"A sweep has an impossible value for {key!r}.",
        where=where,
        expected=first["msg"],
        found=repr(first["input"]),
        usage=True,
    )
