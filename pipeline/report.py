"""`pipeline report`."""

from __future__ import annotations

from pathlib import Path

from pipeline import console
from pipeline.params import read_params
from pipeline.paths import Project


def run(name: str | None, out: Path | None) -> None:
    """Build the page of a profile from what its runs and evaluations left behind, and print its table."""
    from stages.evaluate.output import facts
    from stages.report.evaluated_run import read_runs
    from stages.report.report import report

    project = Project.here()
    profile = read_params(project.root).named(name)
    results, runs = project.evaluations(profile), project.root / "runs" / profile.name
    with console.progress() as progress:
        page = report(results, runs, out or project.report(profile), progress)
    rows = {found.name: facts(found.summary) for found in read_runs(results, runs)}
    named = dict.fromkeys(column for row in rows.values() for column in row)
    columns = [column for column in named if column != "tokens" and not column.startswith("TCS")]
    console.print_table(["run", *columns], [[run, *(row.get(c, "") for c in columns)] for run, row in rows.items()])
    print(f"{project.show(page)}: open it in a browser")
