"""Where a model's weights come from, and the local folder they end up in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import errors

from stages.language_model import gguf
from stages.language_model.config import PACKAGE, ModelConfig
from store.problem import Problem
from store.progress import SILENT, Progress

WAYS_ON = (
    "either log in to the hub (`hf auth login`) and accept the model's licence on its page, "
    "or name weights on this machine: --model PATH (a Hugging Face folder or a .gguf file)"
)
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "config.json"]
MODEL_FILES = ["*.safetensors", "*.json", "tokenizer.model", "*.txt"]


@dataclass(frozen=True)
class Source:
    """A place that weights can be had from."""

    kind: Literal["hub", "folder", "gguf", "package"]
    """A hub id, a local Hugging Face folder, a GGUF file, or a GGUF that an installed package carries."""
    name: str
    """The hub id, the path, or the package's distribution name."""
    sha256: str | None = None
    """What the GGUF's bytes must hash to; None accepts any."""


def parse_source(text: str, sha256: str | None = None) -> Source:
    """Read `google/gemma-2-2b`, `/folder`, `model.gguf` or `package:NAME`; Problem for anything else."""
    if text.startswith(PACKAGE):
        return Source("package", text.removeprefix(PACKAGE), sha256)
    path = Path(text).expanduser()
    if text.endswith(".gguf"):
        return Source("gguf", str(path), sha256)
    if (text and path.is_dir()) or text.startswith(("/", ".", "~")):
        return Source("folder", str(path), sha256)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text):
        return Source("hub", text, sha256)
    raise Problem(
        "This does not name a model.",
        expected=f"a hub id (owner/name), a folder, a .gguf file, or {PACKAGE}NAME",
        found=repr(text),
        usage=True,
    )


def gguf_parts(source: Source) -> list[Path]:
    """The files that joined are the GGUF of a `gguf` or `package` source."""
    if source.kind == "package":
        return gguf.package_parts(source.name)
    path = Path(source.name)
    if not path.is_file():
        raise Problem("There is no such GGUF file.", where=path)
    return [path]


def resolve(config: ModelConfig, progress: Progress = SILENT) -> Path:
    """A local Hugging Face folder with the model's configuration, weights and tokenizer.

    A hub model is downloaded into the hub's own cache, a GGUF converted once into the user's cache. Raises a
    Problem that says why and what else can be done where the weights cannot be had.
    """
    source = parse_source(config.source, config.sha256)
    if source.kind == "hub":
        return _hub_snapshot(source.name, MODEL_FILES)
    if source.kind == "folder":
        return _checked_folder(Path(source.name))
    return gguf.converted(gguf_parts(source), source.sha256, progress)


def configuration(source: Source) -> Path:
    """A folder that holds the source's `config.json`, without fetching weights (`hub` and `folder` only)."""
    if source.kind == "folder":
        return _checked_folder(Path(source.name))
    return _hub_snapshot(source.name, ["config.json"])


def tokenizer_folder(config: ModelConfig) -> Path:
    """A folder that holds the model's tokenizer, without fetching or converting weights.

    Raises Problem where there is none yet, as for a GGUF that was never converted.
    """
    source = parse_source(config.source, config.sha256)
    if source.kind == "folder":
        return _checked_folder(Path(source.name))
    if source.kind == "hub":
        return _hub_snapshot(source.name, TOKENIZER_FILES)
    folder = gguf.conversion(gguf_parts(source), source.sha256)
    if not folder.is_dir():
        raise Problem("This GGUF was not converted here yet, and its tokenizer with it.", where=folder)
    return folder


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise Problem("There is no such model folder.", where=folder, do=WAYS_ON)
    if not (folder / "config.json").is_file():
        raise Problem("This folder holds no Hugging Face model.", where=folder, expected="a config.json in it")
    return folder


def _hub_snapshot(name: str, files: list[str]) -> Path:
    """Download what the hub's cache lacks. One quick question finds out whether the hub answers at all."""
    try:
        huggingface_hub.HfApi().model_info(name, timeout=10)
    except errors.GatedRepoError:
        raise _unavailable(name, "its weights are gated and this machine is not let in") from None
    except errors.RepositoryNotFoundError:
        raise _unavailable(name, "the hub knows no such model, or it is private") from None
    except Exception as error:  # the HTTP library behind the hub client raises classes of its own
        return _cached_snapshot(name, files, error)
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files, ignore_patterns=["*/*"]))
    except errors.GatedRepoError:
        raise _unavailable(name, "its weights are gated and this machine is not let in") from None
    except Exception as error:
        raise _unavailable(name, f"the download failed ({error})") from error


def _cached_snapshot(name: str, files: list[str], error: Exception) -> Path:
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=files, local_files_only=True))
    except Exception:
        raise _unavailable(name, f"the hub cannot be reached ({error})") from error
    if any(file.endswith("safetensors") for file in files) and not list(folder.glob("*.safetensors")):
        raise _unavailable(name, f"the hub cannot be reached ({error})") from error
    return folder


def _unavailable(name: str, why: str) -> Problem:
    return Problem(f"The weights of {name} cannot be had: {why}.", where=f"huggingface.co/{name}", do=WAYS_ON)
