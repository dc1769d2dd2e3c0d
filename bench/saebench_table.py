"""The tables of `bench.saebench` in Markdown, from its pieces alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALL = 1e-2
"""Below it numbers are compared absolutely."""
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""Differences up to which numbers are called equal."""


def table(pieces: Path) -> str:
    """Each scalar of the trained SAEs, the largest difference of every SAE, time and memory."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(pieces.glob("*.json"))}
    parts = [largest(found), time_and_memory(found)]
    if "three" in found:
        parts.insert(0, scalars(next(iter(found["three"]["models"].values()))["saes"]))
    return "\n\n".join(parts)


def scalars(saes: Mapping[str, Any]) -> str:
    """SAEBench's value, ours and how far they are apart, a column an SAE."""
    names = list(next(iter(saes.values()))["scalars"])
    lines = ["| scalar | " + " | ".join(f"{name}: SAEBench | ours | apart" for name in saes) + " |"]
    lines.append("|---" * (1 + 3 * len(saes)) + "|")
    for name in names:
        pairs = [sae["scalars"][name] for sae in saes.values()]
        cells = [f"{pair['saebench']:.7g} | {pair['ours']:.7g} | {apart(**pair):.1e}" for pair in pairs]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def apart(saebench: float, ours: float) -> float:
    """The difference of two values: relative, or absolute where SAEBench's is small."""
    return abs(ours - saebench) / (1 if abs(saebench) < SMALL else abs(saebench))


def equal(saebench: float, ours: float) -> bool:
    """Whether it is within the tolerance."""
    return apart(saebench, ours) <= (ABSOLUTE if abs(saebench) < SMALL else RELATIVE)


def largest(found: Mapping[str, Any]) -> str:
    """By model and SAE, how many scalars are equal and the largest differences."""
    lines = [
        "| model | SAE | scalars equal | largest difference, relative | of which scalar | of small scalars, absolute |"
    ]
    lines[0] += " of latents, relative | of latents, absolute |"
    lines.append("|---" * 8 + "|")
    for piece in found.values():
        for model, of in piece["models"].items():
            lines += [f"| {model} | {name} | {_line(sae)} |" for name, sae in of["saes"].items()]
    return "\n".join(lines)


def _line(sae: Mapping[str, Any]) -> str:
    pairs = sae["scalars"]
    large = {name: apart(**pair) for name, pair in pairs.items() if abs(pair["saebench"]) >= SMALL}
    small = [apart(**pair) for pair in pairs.values() if abs(pair["saebench"]) < SMALL]
    worst = max(large, key=lambda name: large[name])
    latents = sae["latents"].values()
    numbers = [
        f"{sum(equal(**pair) for pair in pairs.values())} of {len(pairs)}",
        f"{large[worst]:.1e}",
        worst,
        f"{max(small, default=0):.1e}",
        *(f"{max(of[key] for of in latents):.1e}" for key in ("largest_relative", "largest_absolute_of_small")),
    ]
    return " | ".join(numbers)


def time_and_memory(found: Mapping[str, Any]) -> str:
    """Of the pieces with one model."""
    lines = ["| SAEs | SAEBench, s | ours, s | times as fast | SAEBench, peak GB | ours, peak GB |", "|---" * 6 + "|"]
    for piece in found.values():
        models = list(piece["models"].values())
        if len(models) == 1:
            seconds, memory = models[0]["seconds"], piece["peak_bytes"]
            cells = [len(models[0]["saes"]), seconds["saebench"], seconds["ours"]]
            cells += [f"{seconds['saebench'] / seconds['ours']:.2f}"]
            cells += [f"{memory[side] / 1e9:.1f}" for side in ("saebench", "ours")]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
