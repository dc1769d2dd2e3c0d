"""params.yaml: the only source of parameters, read into the stages' own configurations."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.evaluate.config import EvaluateConfig
from stages.harvest.config import HarvestConfig
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.names import fit
from stages.train.config import TrainSizes
from stages.unlearn.config import UnlearnConfig
from store.files import write_atomically
from store.problem import Problem

FILE = "params.yaml"
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Profile:
    """A model, its corpus and its sizes."""

    name: Annotated[str, AfterValidator(fit)]
    """The profile's name, equal to its key under `profiles`."""

    model: ModelConfig
    corpus: CorpusConfig
    harvest: HarvestConfig
    train: TrainSizes
    evaluate: EvaluateConfig
    unlearn: UnlearnConfig = UnlearnConfig()


@dataclass(frozen=True, config=_STRICT)
class Run:
    """What `dvc repro` trains and evaluates."""

    variants: Annotated[tuple[str, ...], Field(min_length=1)] = ("baseline", "topk")
    """Names of rows in variants.yaml."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """One training a variant and seed."""


@dataclass(frozen=True, config=_STRICT)
class Params:
    """The whole file."""

    profiles: Mapping[str, Profile]
    profile: Profile
    """The current one."""

    run: Run

    def named(self, name: str | None) -> Profile:
        """A profile by name, or the current one.

        Raises:
            Problem: no such profile.
        """
        if name is None:
            return self.profile
        if name not in self.profiles:
            raise Problem(
                f"There is no profile named {name!r}.",
                where=f"{FILE}, profiles",
                expected=", ".join(self.profiles),
                found=name,
                do="name one of these, or add it to the file",
                usage=True,
            )
        return self.profiles[name]


def read_params(root: Path) -> Params:
    """Read and check the parameters of a project.

    Raises:
        Problem: the file is missing or not YAML, or a key or value in it is unknown or impossible.
    """
    path = root / FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(
            "This is not a project folder.",
            where=root,
            expected=f"a file named {FILE}",
            do="change into the project's folder",
            usage=True,
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem(
            f"{FILE} is not readable YAML.", where=path, found=" ".join(str(error).split()), usage=True
        ) from None
    try:
        params = TypeAdapter(Params).validate_python(content)
    except ValidationError as error:
        raise Problem(
            f"{FILE} holds parameters that cannot be used.",
            where=path,
            found="; ".join(describe(e) for e in error.errors()),
            usage=True,
        ) from None
    except Problem as problem:  # a number that the settings of a stage refuse: they do not know where it stands
        problem.where = path if problem.where is None else f"{path}, {problem.where}"
        raise
    for key, profile in params.profiles.items():
        if profile.name != key:
            raise Problem(
                "A profile's name differs from its key.",
                where=f"{path}, profiles.{key}.name",
                expected=key,
                found=profile.name,
                usage=True,
            )
    profiles = {name: _seen_from_here(root, profile) for name, profile in params.profiles.items()}
    return replace(params, profiles=profiles, profile=_seen_from_here(root, params.profile))


def _seen_from_here(root: Path, profile: Profile) -> Profile:
    """The profile with sources that lie in the project's folder as the working directory sees them."""

    def seen(source: str) -> str:
        if Path.cwd() == root.resolve() or Path(source).is_absolute() or not (root / source).exists():
            return source
        return os.path.relpath(root / source)

    model = replace(profile.model, source=seen(profile.model.source))
    return replace(profile, model=model, corpus=replace(profile.corpus, source=seen(profile.corpus.source)))


def describe(error: Mapping[str, Any]) -> str:
    """One validation error in a person's words: where, what is wrong, what is allowed."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: unknown parameter{_allowed(error['loc'])}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{where}: missing"
    return f"{where}: {error['msg']} (found {error['input']!r})"


def _allowed(location: tuple[Any, ...]) -> str:
    """The fields that stand where an unknown one was found."""
    parents: dict[str, type] = {
        "model": ModelConfig,
        "corpus": CorpusConfig,
        "harvest": HarvestConfig,
        "train": TrainSizes,
        "evaluate": EvaluateConfig,
        "unlearn": UnlearnConfig,
        "run": Run,
    }
    parent = parents.get(str(location[-2]) if len(location) > 1 else "", Params if len(location) < 2 else Profile)
    return f" (allowed: {', '.join(parent.__dataclass_fields__)})"  # type: ignore[attr-defined]


def use_profile(root: Path, name: str) -> Profile:
    """Make a profile the current one, touching nothing else in the file."""
    params = read_params(root)
    profile = params.named(name)
    path = root / FILE
    text, count = re.subn(r"(?m)^profile: \*\S+", f"profile: *{name}", path.read_text(encoding="utf-8"))
    if count != 1:
        raise Problem(
            "The line that names the current profile was not found.",
            where=path,
            expected="one line `profile: *NAME`",
            found=f"{count} such lines",
            usage=True,
        )
    if _current_in(text) != name:
        raise Problem(
            f"The line `profile: *{name}` would not name that profile.",
            where=path,
            expected=f"an anchor of the profile's own name: `{name}: &{name}`",
            do="write it behind the profile's key",
            usage=True,
        )
    write_atomically(path, text.encode())
    return profile


def _current_in(text: str) -> str | None:
    """The name of the current profile in the text of a parameter file; None where there is none."""
    try:
        return str(yaml.safe_load(text)["profile"]["name"])
    except (yaml.YAMLError, KeyError, TypeError):
        return None


def with_model(profile: Profile, source: str | None) -> Profile:
    """The profile with another model in it, a hub id, a local folder or a GGUF file, loaded as the profile's own is."""
    if source is None:
        return profile
    name = Path(source).resolve().name if Path(source).exists() else source
    return replace(profile, model=replace(profile.model, name=name, source=source, sha256=None))
