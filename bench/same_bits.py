"""Whether a change of the code that trains changes a bit of what is trained; where not, it outdates no run.

    python -m bench.same_bits COMMIT

trains every row of the table, and its controls, with the code of COMMIT and with the code that is here, on a CPU: with
short schedules on small activations, and for a few steps at the sizes of the current profile on its store. Where every
row leaves the same bytes behind (SAE, optimiser, counters, metrics), `stages/train/same_bits.json` says from then on
that each module that differs counts as what it was. Otherwise the rows that differ are named and nothing is written.

It says nothing of GPUs, nor of steps that so few do not reach. It is for mends that are meant to change nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.params import read_params
from pipeline.paths import Project
from stages.train.identity import SAME_BITS
from store.files import write_json

ROOT = Path(__file__).parents[1]
Trained = dict[str, dict[str, Any]]
Same = dict[str, dict[str, str | None]]


def trained_by(tree: Path) -> Trained:
    """What every row leaves behind with the code of a tree."""
    place = Project(ROOT).store(read_params(ROOT).profile)
    command = [sys.executable, str(Path(__file__).with_name("same_bits_child.py")), str(place)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    found = subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE).stdout
    trained: Trained = json.loads(found)
    return trained


def trained_at(commit: str) -> Trained:
    """What every row leaves behind with the code of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            return trained_by(tree)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def differing(before: Trained, after: Trained) -> list[str]:
    """The rows that leave other bytes behind or are not in both trees, and those of whose change nothing can be said:
    they run fewer modules than before, or one more that another row has run all along."""
    known = {(module, now) for trained in before.values() for module, now in trained["code"].items()}
    wrong = set(before.keys() ^ after.keys())
    for name in before.keys() & after.keys():
        one, other = before[name]["code"], after[name]["code"]
        same = before[name]["trained"] == after[name]["trained"]
        if not same or one.keys() - other or any(new in known for new in other.items() if new[0] not in one):
            wrong.add(name)
    return sorted(wrong)


def counted_as(before: Trained, after: Trained, known: Same) -> Same:
    """`known`, and for each module that differs what it is now and what it counts as."""
    found = {module: dict(same) for module, same in known.items()}
    for name, trained in after.items():
        for module, now in trained["code"].items():
            if now != (was := before[name]["code"].get(module)):
                found.setdefault(module, {})[now] = was
    return dict(sorted(found.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    before, after = trained_at(parser.parse_args().commit), trained_by(ROOT)
    if wrong := differing(before, after):
        print(f"not the same, so these have to be trained again: {', '.join(wrong)}")
        return 1
    known = json.loads(SAME_BITS.read_text())
    found = counted_as(before, after, known)
    write_json(SAME_BITS, found)
    changed = sorted(module for module in found if found[module] != known.get(module))
    print(f"the same bytes in {len(after)} trainings; as before count: {', '.join(changed) or 'nothing differs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
