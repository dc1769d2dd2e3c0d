"""The table of variants: reads `variants.yaml`, finds rows and controls, explains mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from stages.names import FIT, RULE
from stages.sae.variant import Variant, control_of
from store.problem import Problem


def load_variants(path: Path) -> dict[str, Variant]:
    """Read the table. Raises a usage `Problem` that names the first bad key or value and what is allowed."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem("The table of variants cannot be read.", where=path, found=error.strerror, usage=True) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem("The table of variants is not YAML.", where=path, found=error, usage=True) from None
    if not isinstance(table, dict) or not table:
        raise Problem("The table of variants has no rows.", where=path, usage=True)
    variants: dict[str, Variant] = {}
    for name, row in table.items():
        base, plus, control = str(name).partition("+")
        if plus:
            # The base's numbers stand in the row as well, as a YAML alias, so that DVC sees when they change.
            if base not in variants or row != {"of": table[base]}:
                raise Problem(
                    f"Control {name!r} is not the alias of a row above it.",
                    where=path,
                    expected=f"{name}: {{of: *{base}}}",
                    usage=True,
                )
            variants[str(name)] = control_of(variants[base], control)
        else:
            variants[str(name)] = _variant(str(name), row, path)
    return variants


def find_variant(variants: Mapping[str, Variant], name: str, asked_in: str | None = None) -> Variant:
    """The variant of that name, or the control of one; a usage `Problem` that lists the names where there is none.

    `asked_in` is the file that asks for it, where it is not the command line.
    """
    base, plus, control = name.partition("+")
    if plus and base in variants:
        return control_of(variants[base], control)
    if name not in variants:
        known = ", ".join(sorted(variants))
        raise Problem(
            f"There is no variant {name!r}.", where=asked_in, expected=f"one of {known}", found=name, usage=True
        )
    return variants[name]


def _variant(name: str, row: Any, path: Path) -> Variant:
    if not FIT.fullmatch(name):
        raise Problem(f"A variant cannot be called {name!r}.", where=path, expected=RULE, usage=True)
    if not isinstance(row, dict) or {"name", "control"} & set(row):
        raise Problem(
            f"Variant {name!r} is not a row of keys and values, without keys 'name' and 'control'.",
            where=path,
            usage=True,
        )
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
        allowed = ", ".join(field for field in _keys_at(keys[:-1]) if len(keys) > 1 or field not in ("name", "control"))
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
        if not key.isdigit():  # a number is a place in a list of what its key holds
            hint = get_type_hints(schema)[key]
            schema = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), hint)
    return [field.name for field in fields(schema)]
