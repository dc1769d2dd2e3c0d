"""`pipeline store verify`, and mending what it finds."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.expected import NOTHING, Expected, expected
from pipeline.params import Profile, read_params
from pipeline.paths import Project, local_folder
from store.manifest import Manifest
from store.problem import Problem
from store.progress import Progress
from store.repair import Remake
from store.verify import BadFile


def run(
    named: str | None,
    profile: str | None,
    sample: str | None,
    expect: str | None,
    repair: bool,
    source: str | None,
    json: bool,
) -> None:
    """Every byte, or a sample, against its digest, and the root against what is expected; exit status 1 if wrong."""
    share = _share(sample)
    if (sample and repair) or (source and not repair):
        what = "A repair looks at every byte." if sample else "There is nothing to fetch without a repair."
        raise Problem(what, expected="--repair, or --repair --from COPY, or --sample SHARE", usage=True)
    project = Project.here()
    chosen = read_params(project.root).named(profile)
    folder = local_folder(named) if named else project.store(chosen)
    wanted = expected(project, folder, expect)
    mended: dict[str, Any] = {}
    with console.progress() as progress:
        if repair:
            mended = _repair(folder, chosen, wanted, source, progress)
        facts, problems = _verify(folder, share, wanted, progress)
    if json:
        problem_rows = [{name: console.printable(text) for name, text in vars(bad).items()} for bad in problems]
        report = {"store": project.show(folder), "ok": not problems, **facts, **mended, "problems": problem_rows}
        console.print_json(report)
    else:
        _print(project.show(folder), facts, mended, problems)
    if problems:
        sys.exit(1)


def _share(text: str | None) -> float:
    """`5%` or `0.05` as a share."""
    if text is None:
        return 1.0
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Problem("This is no share of a store.", where="--sample", expected="such as 5%", found=text, usage=True)
    return share


def _verify(folder: Path, share: float, wanted: Expected, progress: Progress) -> tuple[dict[str, Any], list[BadFile]]:
    """What was looked at, and all that is wrong."""
    import store

    seed = secrets.randbelow(2**32)
    result = store.verify(folder, progress, sample=share, seed=seed)
    problems, against = list(result.problems), wanted.source
    if wanted.reads_all and share < 1:
        against = f"{NOTHING} ({wanted.source} needs every byte)"
    elif wanted.reads_all and problems:
        against = f"{NOTHING} ({wanted.source} is compared once the files are right)"
    elif (root := wanted.compare(folder, result.root)) is not None:
        problems.append(root)
    facts = {
        "files": result.n_files,
        "bytes": result.n_bytes,
        "bytes read": result.n_read,
        **({"sampled with seed": seed} if share < 1 else {}),
        "root digest": result.root,
        "root checked against": against,
    }
    return facts, problems


def _repair(folder: Path, profile: Profile, wanted: Expected, source: str | None, progress: Progress) -> dict[str, Any]:
    """Mend what can be mended; nothing where the root is not the expected one."""
    from stages.harvest.repair import from_harvest, from_request
    from store.repair import repair

    if not wanted.reads_all and (bad := wanted.compare(folder, Manifest.load(folder).root)) is not None:
        raise Problem(
            "This is not the store that was expected: nothing was repaired.",
            where=folder,
            expected=bad.expected,
            found=bad.found,
            do="get the store again from its source",
        )
    ways: dict[str, Remake] = {
        "request and plan": from_request,
        f"profile {profile.name}": from_harvest(profile.harvest, profile.model, profile.corpus),
    }
    if source is not None:
        ways[source] = _copy(source)
    result = repair(folder, ways, progress)
    return {"mended": result.mended, "not mended because": result.reasons}


def _copy(source: str) -> Remake:
    """Another copy of the store as a way to mend it."""
    from store.remote import is_url
    from store.repair import fetching, from_copy, reading

    if is_url(source):
        return from_copy(fetching(source))
    if not Path(source).is_dir():
        raise Problem("There is no copy of the store here.", where=source, expected="a folder or a URL", usage=True)
    return from_copy(reading(Path(source)))


def _print(name: str, facts: dict[str, Any], mended: dict[str, Any], problems: list[BadFile]) -> None:
    for path, way in mended.get("mended", {}).items():
        print(f"mended from {way}: {path}")
    if problems:
        for reason in mended.get("not mended because", []):
            print(f"not mended: {console.printable(reason)}", file=sys.stderr)
        count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
        print(f"{name}: {count} wrong among {facts['files']} files", file=sys.stderr)
    for bad in problems:
        lines = (bad.path, f"  expected: {bad.expected}", f"  found: {bad.found}")
        print("\n".join(f"  {console.printable(line)}" for line in lines), file=sys.stderr)
    if not problems:
        sampled = facts["bytes read"] < facts["bytes"]
        what = "sizes and names of" if sampled else "all"
        print(f"{name}: {what} {facts['files']} files ({facts['bytes']:,} bytes) are as recorded")
    shown = {"bytes read": f"{facts['bytes read']:,}", **{key: facts[key] for key in list(facts)[3:]}}
    console.print_facts(shown)
