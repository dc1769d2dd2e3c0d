"""`pipeline report`."""

from __future__ import annotations

from pathlib import Path

from pipeline.params import read_params
from pipeline.paths import Project


def run(name: str | None, out: Path | None) -> None:
    """Build the page of a profile from what its runs and evaluations left behind."""
    from stages.report import report

    project = Project.here()
    profile = read_params(project.root).named(name)
    page = report(
        results=project.root / "results" / profile.name,
        runs=project.root / "runs" / profile.name,
        store=project.store(profile),
        out=out or project.report(profile),
    )
    print(f"{project.show(page)}: open it in a browser")
