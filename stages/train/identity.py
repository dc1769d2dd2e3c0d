"""What decides the content of a training: its numbers, its activations and the code that it runs."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from stages.sae.variant import Variant
from stages.train.config import TrainConfig
from store.files import digest

ROOT = Path(__file__).parents[2]

ONLY_FOR: dict[str, Callable[[Variant], object]] = {
    "stages.sae.layout": lambda row: row.parts.ordered,
    "stages.sae.inputs": lambda row: row.parts.changes_inputs,
    "stages.sae.attention": lambda row: row.parts.attention or row.parts.prediction,
    "stages.sae.prediction": lambda row: row.parts.prediction,
    "stages.sae.outputs": lambda row: row.parts.norm or row.parts.gate or row.parts.integrator,
    "stages.sae.composed": lambda row: not row.parts.folds,
    "stages.sae.threshold": lambda row: row.sparsifier.kind in ("batchtopk", "jumprelu"),
    "stages.train.terms": lambda row: row.objective.levels or row.objective.contrast or row.objective.separation,
    "stages.train.temporal": lambda row: row.objective.temporal,
    "stages.train.quadratic": lambda row: row.objective.temporal,
}
"""Modules that only some rows run, so that a change of one outdates no other row."""

DECIDING = ("stages.sae", "stages.train", "store.pairs", "store.windows")
"""Where code lies that decides what is trained. The rest of `store` hands on bytes that are checked by digests."""

SAME_BITS = Path(__file__).with_name("same_bits.json")
"""By module, the sha256 of what it is now and of what it was (null: no part of the training), for changes that change
no bit of what is trained on a CPU. `python -m bench.same_bits` trains every row before and after a change, and writes
it."""


def fingerprint(config: TrainConfig, activations: str, layer: int) -> str:
    """sha256 of everything that decides what a training leaves behind.

    `activations` names what it trains on: the root digest of a store, or the fingerprint of one where stores that
    several kinds of machine make of one request, with other roundings, are to count as the same.
    """
    return digest(
        {
            "variant": config.variant.numbers,
            "seed": config.seed,
            "steps": config.steps,
            "batch_rows": config.batch_rows,
            "d_sae": config.d_sae,
            "k": config.k,
            "log_every": config.log_every,
            "store": activations,
            "layer": layer,
            "code": code_of(config.variant),
        }
    )


def code_of(row: Variant) -> dict[str, str]:
    """sha256 of each module that the training of a row runs, as a syntax tree: comments, docstrings and layout do not
    count.

    These are the modules of `DECIDING` that its loop imports, directly or not, but for those of parts that the row
    does without: changes to what only reads SAEs or tables outdate no run. A module that computes the same bits as an
    earlier one counts as that.
    """
    found: dict[str, str | None] = {}
    same = same_bits()
    waiting = ["stages.train.loop"]
    while waiting:
        name = waiting.pop()
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        needed = ONLY_FOR.get(name, lambda _row: True)
        if name not in found and path.is_file() and needed(row):
            now, imported = _module(path, path.stat().st_mtime_ns)
            found[name] = same.get(name, {}).get(now, now)
            waiting += imported
    return {name: counted for name, counted in found.items() if counted is not None}


@cache
def same_bits() -> dict[str, dict[str, str | None]]:
    """The content of `SAME_BITS`."""
    found: dict[str, dict[str, str | None]] = json.loads(SAME_BITS.read_text())
    return found


@cache
def _module(path: Path, changed: int) -> tuple[str, list[str]]:
    """sha256 of a module's syntax tree and the modules of `DECIDING` that it imports.

    A quarter of a second for all of them, so each is read once.
    """
    tree = syntax(path.read_bytes())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(DECIDING):
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return digest(ast.dump(tree)), names


def syntax(source: bytes) -> ast.AST:
    """The syntax tree of a module without its docstrings."""
    return _WithoutTexts().visit(ast.parse(source))


class _WithoutTexts(ast.NodeTransformer):
    """Drops statements that are nothing but a text."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
