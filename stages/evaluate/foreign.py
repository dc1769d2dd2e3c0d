"""SAEs that others saved, folders of SAELens and files of Gemma Scope, as the evaluation reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.evaluate.subject import Subject, as_sparse, base_name, named, read_object
from stages.evaluate.trained_run import SAE_FILES, TRAINING, TrainedRun
from stages.sae.architecture import SparsifierRow
from stages.sae.build import Blueprint
from stages.sae.files import CONFIG, WEIGHTS
from stages.sae.loading import load, load_gemma_scope
from stages.sae.model import SAE
from stages.sae.sparsifier import TopK
from store import ActivationStore
from store.files import digest, file_sha256, last_folders
from store.problem import Problem

HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(post|pre)")
"""Hook points of the residual stream: what leaves a block is what the next one reads."""
LAYER_FOLDER = re.compile(r"layer_(\d+)")
"""How Gemma Scope names the folder of a layer."""
RELEASE = re.compile(r"(?<![a-z])(res|resid|mlp|attn?|transcoders?|embedding)(?![a-z])", re.IGNORECASE)
"""How its releases name what they read, as `gemma-scope-2b-pt-res` and `gemma-scope-2b-pt-mlp`."""
RESIDUAL = ("res", "resid")
"""Releases that read the residual stream; their SAEs of embeddings, in a folder of that name, do not."""
ASSUMED = "it reads blocks.{}.hook_resid_post, the residual stream after a block: its files do not say what it reads"
FOREIGN = "foreign"
"""Stands for the seed."""


def is_foreign(path: Path) -> bool:
    """Whether a path is an SAE rather than the folder of a training."""
    return path.suffix == ".npz" or (path / CONFIG).is_file()


def read_subject(path: Path, store: ActivationStore) -> Subject:
    """A run, or an SAE that others saved.

    Raises:
        Problem: it cannot be read, or does not belong to the store.
    """
    subject = read_without_store(path, tuple(store.layers))
    subject.check_store(store)
    return subject


def read_without_store(path: Path, layers: Sequence[int] = ()) -> Subject:
    """The same, of whatever model. An SAE that does not say which layer it reads is of the only one of `layers`.

    Raises:
        Problem: it cannot be read.
    """
    return ForeignSAE.read(path, layers) if is_foreign(path) else TrainedRun.read(path)


def foreign_name(path: Path) -> str:
    """What to call it: the last three folders of its path, as `layer_20-width_16k-average_l0_71` of Gemma Scope. A
    file's own link is not followed: in the hub's cache it leads to where there are no names."""
    return last_folders((path.parent if path.suffix == ".npz" else path).resolve())


def content_of(path: Path) -> str:
    """Digest of the files that say what an SAE is, those that are there: of one, or of a run."""
    if path.suffix == ".npz":
        files = [path]
    else:
        files = [path / name for name in ((CONFIG, WEIGHTS) if is_foreign(path) else (TRAINING, *SAE_FILES))]
    return digest([file_sha256(file) for file in files if file.is_file()])


@dataclass(frozen=True)
class ForeignSAE(Subject):
    """An SAE of which the files are known, but not the training."""

    path: Path
    """A folder with `cfg.json`, or `params.npz`."""
    facts: Mapping[str, Any]
    """Sizes, model, hook point and files."""
    sae_config: Mapping[str, Any]
    """`cfg.json`."""

    @classmethod
    def read(cls, path: Path, layers: Sequence[int]) -> ForeignSAE:
        """Read what its files say of it; where they do not name the layer, it is the only one of `layers`.

        Raises:
            Problem: the SAE cannot be read, or its layer is unknown.
        """
        if path.suffix == ".npz":
            config, files, hook = {}, [path], None
            layer = _layer_of_gemma_scope(path, layers)
        else:
            config = read_object(path / CONFIG, "A saved SAE cannot be read.")
            files = [path / CONFIG, path / WEIGHTS]
            hook = named(config, "hook_name") or named(config, "hook_point")  # an older name of it
            layer = _only_layer(path, layers) if hook is None else _layer_of_hook(hook, path)
        sae = _load(path)
        facts = {
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "layer": layer,
            "model_name": named(config, "model_name"),
            "hook_name": hook,
            **({"assumed": ASSUMED.format(layer)} if hook is None else {}),
            "files": {file.name: file_sha256(file) for file in files},
        }
        return cls(path, facts, config)

    @property
    def ids(self) -> tuple[str, str]:
        return foreign_name(self.path), FOREIGN

    @property
    def layer(self) -> int:
        return int(self.facts["layer"])

    @property
    def identity(self) -> str:
        return digest(self.facts)

    @property
    def levels(self) -> list[int]:
        return []

    def check_store(self, store: ActivationStore) -> None:
        recorded, own = store.model_name, self.facts["model_name"]
        if own is not None and recorded is not None and base_name(own) != base_name(recorded):
            raise Problem(
                "This SAE is of another language model than the activation store.",
                where=self.path,
                expected=recorded,
                found=own,
                do="name a store of its model with --store; if it is the same model, mend model_name in cfg.json",
            )
        if self.layer not in store.layers:
            raise Problem(
                f"This SAE reads the residual stream after block {self.layer}, which the store does not have.",
                where=self.path,
                expected=f"one of {', '.join(map(str, sorted(store.layers)))}",
                found=self.facts["hook_name"] or f"layer {self.layer}",
                do=f"harvest it: `pipeline harvest --layer {self.layer}`, and name that store with --store",
            )
        if self.facts["d_in"] != store.layers[self.layer]:
            raise Problem(
                "This SAE reads activations of another width.",
                where=self.path,
                expected=f"d_in = {store.layers[self.layer]}",
                found=self.facts["d_in"],
                do="name a store of its model with --store",
            )

    def blueprint(self, sae: SAE, l0: float) -> Blueprint:
        row, k = SparsifierRow("relu"), 1
        if isinstance(sae.sparsifier, TopK):
            row, k = SparsifierRow("topk"), sae.sparsifier.k
        row, k = as_sparse(row, k, l0)
        return Blueprint(row, sae.row, "tied", sae.d_in, sae.d_sae, k, sae.context)

    def load(self) -> SAE:
        return _load(self.path)


def _load(path: Path) -> SAE:
    return load_gemma_scope(path) if path.suffix == ".npz" else load(path)


def _layer_of_gemma_scope(path: Path, layers: Sequence[int]) -> int:
    """From the folders above a file, which itself says neither its layer nor what it reads there.

    SAEs of other places often are as wide as those of the residual stream.
    """
    release = _nearest(RELEASE, path)
    if release is not None and release.lower() not in RESIDUAL:
        raise Problem(
            "This SAE of Gemma Scope does not read the residual stream, by the name of its folder.",
            where=path,
            expected="one of a release like gemma-scope-2b-pt-res",
            found=release,
            do="if it does read the residual stream, put it into a folder named res",
        )
    layer = _nearest(LAYER_FOLDER, path)
    return _only_layer(path, layers) if layer is None else int(layer)


def _nearest(pattern: re.Pattern[str], path: Path) -> str | None:
    """What a pattern finds last in a path, or else in the one that it links to; the hub's cache links to `blobs`."""
    found = (pattern.findall(str(place)) for place in (path.absolute(), path.resolve()))
    return next((names[-1] for names in found if names), None)


def _layer_of_hook(hook: str, path: Path) -> int:
    found = HOOK.fullmatch(hook)
    if found is None or hook.startswith("blocks.0.hook_resid_pre"):
        raise Problem(
            "This SAE reads a hook point that no store has.",
            where=path,
            expected="blocks.N.hook_resid_post, or blocks.N.hook_resid_pre of a later block than the first",
            found=hook,
        )
    return int(found.group(1)) - (found.group(2) == "pre")


def _only_layer(path: Path, layers: Sequence[int]) -> int:
    if len(layers) != 1:
        there = f", and a store with layers {', '.join(map(str, sorted(layers)))}" if layers else ""
        raise Problem(
            "Nothing says which layer this SAE reads.",
            where=path,
            expected="hook_name in cfg.json, or a folder layer_N above params.npz",
            found=f"neither{there}",
        )
    return layers[0]
