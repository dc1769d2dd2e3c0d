from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from pipeline import console
from pipeline.console import BarProgress, LineProgress, duration, quantity


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.6, "1 h 00 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (64123.4, "tokens", "64,123 tokens"),
        (0.2512, "steps", "0.25 steps"),
        (3, "steps", "3 steps"),
        (1.34e9, "B", "1.3 GB"),
    ],
)
def test_quantities(amount: float, unit: str, text: str) -> None:
    assert quantity(amount, unit) == text


@pytest.mark.parametrize(
    ("task", "unit", "total"),
    [
        ("train warmup2000 seed 0", "steps", 4000),
        ("verify", "B", 1_339_086_091),
        ("harvest", "tokens", 1_065_216),
    ],
)
def test_a_bar_is_one_line_of_80_columns(monkeypatch: pytest.MonkeyPatch, task: str, unit: str, total: int) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(console, "err", terminal)
    with BarProgress() as progress:
        progress.start(task, total, unit)
        progress.advance(total // 3)
        time.sleep(0.05)
        progress.advance(total // 3)
        lines = terminal.render_lines(progress._bars.get_renderable(), pad=False)
    text = "".join(segment.text for segment in lines[0])
    assert len(lines) == 1 and f"{unit}/s" in text.replace("GB/s", "B/s"), text


@pytest.mark.parametrize("line", ["data/stores/[old]/x", "a/[/archive]/run"])
def test_notes_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    terminal = Console(file=(shown := io.StringIO()), force_terminal=True, width=80, soft_wrap=True)
    monkeypatch.setattr(console, "err", terminal)
    with BarProgress() as progress:
        progress.start(line, 1, "files")
        progress.note(f"{line} \x1b]0;title\x07")
    assert line in shown.getvalue() and "\x1b]0" not in shown.getvalue()


def test_lines_carry_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    progress = LineProgress()
    progress.start("harvest", 10_000, "tokens", done=2_000)
    now += 5
    progress.advance(1_000)
    assert capsys.readouterr().err == ""
    now += 15
    progress.advance(1_000)
    line = capsys.readouterr().err
    assert line == "harvest: 4,000 of 10,000 tokens (40%), 100 tokens/s, 1 min 00 s left\n"
    now += 20
    progress.advance(4_000)
    assert "8,000 of 10,000 tokens (80%), 200 tokens/s, 10 s left" in capsys.readouterr().err


def test_lines_of_unknown_length(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    progress = LineProgress()
    progress.start("tokenise", 0, "tokens")
    now += 16
    progress.advance(32_000)
    assert capsys.readouterr().err == "tokenise: 32,000 tokens, 2,000 tokens/s\n"
