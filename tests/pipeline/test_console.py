from __future__ import annotations

import pytest

from pipeline import console
from pipeline.console import LineProgress, duration, per_second


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.6, "1 h 00 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rates() -> None:
    assert (per_second(64123.4), per_second(0.2512)) == ("64,123 a second", "0.25 a second")


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
    assert line == "harvest: 4,000 of 10,000 tokens (40%), 100 a second, 1 min 00 s left\n"
    now += 20
    progress.advance(4_000)
    assert "8,000 of 10,000 tokens (80%), 200 a second, 10 s left" in capsys.readouterr().err


def test_lines_of_unknown_length(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    progress = LineProgress()
    progress.start("tokenise", 0, "tokens")
    now += 16
    progress.advance(32_000)
    assert capsys.readouterr().err == "tokenise: 32,000 tokens, 2,000 a second\n"
