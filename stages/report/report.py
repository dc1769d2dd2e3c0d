"""Build the report of a profile from what its runs and evaluations left behind."""

from __future__ import annotations

from pathlib import Path

from stages.evaluate.unlearned import read_rmu
from stages.report.contrast import comparisons
from stages.report.evaluated_run import read_runs
from stages.report.figures import pictures
from stages.report.page import make_page, names_of_figures
from stages.report.unlearning import comparable
from store.files import write_atomically
from store.progress import SILENT, Progress

PAGE = "index.html"
FIGURES = "figures"


def report(results: Path, runs: Path, out: Path, progress: Progress = SILENT) -> Path:
    """Write `out/index.html` and every figure as `out/figures/<name>.png`; returns the page.

    Equal inputs give equal bytes. Figures that the page of before names and that are no longer made are removed.

    Args:
        results: folder of evaluations, `VARIANT/seedN/{core,summary,temporal,...}.json`.
        runs: folder of trainings with the same structure, read for their metrics logs.

    Raises:
        Problem: nothing was evaluated, or an evaluation cannot be read.
    """
    found = read_runs(results, runs, progress)
    compared = comparisons(found)
    unlearned = comparable(found, read_rmu(results, progress))
    drawn = pictures(found, compared, unlearned)
    made = {picture.name: picture.png for members in drawn.values() for picture in members}
    before = (out / PAGE).read_text(encoding="utf-8", errors="replace") if (out / PAGE).is_file() else ""
    gone = names_of_figures(before) - made.keys()
    for old in (out / FIGURES).glob("*.png"):
        if old.stem in gone:
            old.unlink()
    for name, content in made.items():
        write_atomically(out / FIGURES / f"{name}.png", content)
    write_atomically(out / PAGE, make_page(found, compared, unlearned, drawn).encode())
    return out / PAGE
