"""Where a project keeps what its runs leave behind."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import FILE, Profile
from stages.evaluate.unlearned import RMU
from store.problem import Problem
from store.remote import is_url


@dataclass(frozen=True)
class Project:
    """A folder with a params.yaml in it."""

    root: Path
    """Its path."""

    @classmethod
    def here(cls) -> Project:
        """The project of the working directory: the nearest folder upwards that holds params.yaml."""
        here = Path.cwd()
        for folder in [here, *here.parents]:
            if (folder / FILE).exists():
                return cls(folder)
        raise Problem(
            "This is not a project folder.",
            where=here,
            expected=f"a file named {FILE} here or in a folder above",
            do="change into the project's folder",
            usage=True,
        )

    def store(self, profile: Profile, suffix: str = "") -> Path:
        """`data/stores/<profile>-L<layers>`."""
        return self.root / "data" / "stores" / f"{profile.name}-L{profile.harvest.layers}{suffix}"

    def stores(self, profile: Profile) -> list[Path]:
        """Those of a profile that are there: the one of params.yaml first, then what flags made."""
        plain = self.store(profile)
        found = [plain / "manifest.json", *sorted(plain.parent.glob(f"{glob.escape(plain.name)}-*/manifest.json"))]
        return [manifest.parent for manifest in found if manifest.exists()]

    def store_to_read(self, profile: Profile, named: str | None) -> str | Path:
        """The store named on the command line, which may be a URL, or the profile's.

        Raises:
            Problem: there is none, with the command that makes it.
        """
        if named is not None and is_url(named):
            return named
        place = Path(named) if named else self.store(profile)
        if place.exists() and not place.is_dir():
            raise Problem(
                "This is no activation store.",
                where=place,
                expected="the folder that holds its manifest.json",
                found="a file",
                usage=True,
            )
        if not (place / "manifest.json").exists():
            empty = not place.exists() or not any(place.iterdir())
            to_there = f" --store {self.show(place)}" if named and empty else ""
            others = [] if named else [f"name one that is there: --store {self.show(s)}" for s in self.stores(profile)]
            raise Problem(
                "There is no activation store here.",
                where=self.show(place),
                expected="a folder with a manifest.json",
                found="no such folder" if not place.exists() else "no manifest.json in it",
                do="; or ".join([*others, f"run: pipeline harvest --profile {profile.name}{to_there}"]),
            )
        return place

    def run(self, profile: Profile, variant: str, seed: int, suffix: str = "") -> Path:
        """`runs/<profile>/<variant>/seed<k>`."""
        return self.root / "runs" / profile.name / variant / f"seed{seed}{suffix}"

    def evaluations(self, profile: Profile) -> Path:
        """`results/<profile>`: those of all runs, and their comparison."""
        return self.root / "results" / profile.name

    def results(self, profile: Profile, run: Path) -> Path:
        """`results/<profile>/<variant>/seed<k>` of a run of this project."""
        runs = (self.root / "runs" / profile.name).resolve()
        return self.evaluations(profile) / run.resolve().relative_to(runs)

    def has_run(self, profile: Profile, path: Path) -> bool:
        """Whether a path lies among the runs of this project."""
        return path.resolve().is_relative_to((self.root / "runs" / profile.name).resolve())

    def metrics(self, profile: Profile) -> Path:
        """`results/<profile>.json`: the numbers of all runs that params.yaml asks for, in one file."""
        return self.root / "results" / f"{profile.name}.json"

    def report(self, profile: Profile) -> Path:
        """`report/<profile>`."""
        return self.root / "report" / profile.name

    def rmu(self, profile: Profile, suffix: str = "") -> Path:
        """`results/<profile>/rmu`: a folder a layer."""
        return self.evaluations(profile) / f"{RMU}{suffix}"

    def sweep(self, profile: Profile, name: str) -> Path:
        """`sweeps/<profile>/<name>`: the cells of a sweep and its table."""
        return self.root / "sweeps" / profile.name / name

    def show(self, place: str | Path) -> str:
        """A path, or a URL, as a person would type it here."""
        if is_url(place):
            return str(place)
        path = Path(place).resolve()
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def local_folder(text: str) -> Path:
    """What the command line names, as a folder. Raises Problem for a URL."""
    if is_url(text):
        raise Problem(
            "This has to be a folder of this machine.",
            found=text,
            do="`pipeline store pull` copies a store from a URL, `pipeline store push` to one; both verify it",
            usage=True,
        )
    return Path(text)


def suffix_of(fingerprint: str) -> str:
    """What a path gains where flags make its content differ from params.yaml."""
    return f"-{fingerprint[:8]}"
