"""Tables as HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from stages.report.evaluated_run import EvaluatedRun
from stages.report.numeral import MISSING, numeral


@dataclass(frozen=True)
class Cell:
    """One cell: text, what qualifies it in small print, and a share of 1 to draw as a bar."""

    text: str
    small: str = ""
    bar: float | None = None


def table(kind: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A table with a class that the style knows: `runs` turns into cards on a phone, others scroll."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    return f'<table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def row(title: str, labels: Sequence[str], cells: Sequence[Cell], colour: str | None = None) -> str:
    """A row with its title, a swatch of its colour in figures where it has one, and a label for each cell on phones."""
    swatch = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
    body = "".join(_td(label, cell) for label, cell in zip(labels, cells, strict=True))
    return f'<tr><th scope="row">{swatch}{breakable(title)}</th>{body}</tr>'


def breakable(name: str) -> str:
    """A run's name, escaped, that may break where its parts meet."""
    parts = re.split(r"(?=\+)|(?<=/)", name)
    return "<wbr>".join(f'<span class="part">{escape(part)}</span>' for part in parts)


def share(run: EvaluatedRun, name: str) -> Cell:
    """A number between 0 and 1 with its standard error and a bar."""
    value, error = run.number(name), run.number(f"{name}_se")
    small = f"± {error:.4f}" if math.isfinite(error) else ""
    bar = min(max(value, 0.0), 1.0) if math.isfinite(value) else None
    return Cell(numeral(value, 4), small, bar)


def plain(value: float | None) -> str:
    """A number of unknown kind."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,}" if float(value).is_integer() else f"{value:,.5g}"


def _td(label: str, cell: Cell) -> str:
    bar = "" if cell.bar is None else f'<span class="bar"><span style="width:{100 * cell.bar:.1f}%"></span></span>'
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    return f'<td data-label="{escape(label)}"><span class="value">{escape(cell.text)}{small}</span>{bar}</td>'
