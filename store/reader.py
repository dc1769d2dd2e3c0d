"""Reading a store: memory-mapped windows, tokens, documents and statistics."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from store.documents import SPLITS, in_train, is_train, read_documents
from store.encoding import EncodedArray, EncodedRows
from store.layout import DOCUMENTS
from store.manifest import NAME, Manifest
from store.mapping import MappedRows, mapped
from store.problem import Problem
from store.progress import SILENT, Progress
from store.records import FileRecord
from store.same_folder import SameFolder
from store.shards import ShardedArray
from store.statistics import Statistics, parse_statistics
from store.verify import BadFile, refuse, wrong_contents, wrong_sizes, wrong_store
from store.windows import Windows

Rows = Sequence[int] | np.ndarray
"""Sequence numbers, in any order."""


def open_folder(path: str | Path) -> ActivationStore:
    """Open the finished store in the folder `path`.

    Checks the manifest and that every file is there with its size; `ActivationStore.check` reads them all.
    Raises Problem for a store that is missing, partial, of another version, damaged, or that names
    files outside its folder; it lists every bad file.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    if manifest.root is None:
        raise Problem(
            "This store is partial: its harvest has not finished.",
            where=folder.absolute(),
            expected=f'"status": "complete" in {NAME}',
            found='"status": "partial"',
            do="run the same `pipeline harvest` again; it goes on where it stopped",
        )
    refuse(folder, wrong_sizes(folder, manifest.stored))
    return ActivationStore(folder, manifest, manifest.root)


class ActivationStore:
    """A finished store, opened for reading. Made by `store.open`. Nothing in it is ever written."""

    def __init__(self, path: Path, manifest: Manifest, root: str) -> None:
        self.path = path
        """The folder."""
        self.manifest = manifest
        """What `manifest.json` says."""
        self.root = root
        """Digest of the whole content; what was computed from this store records it."""
        self._layout = manifest.layout
        self._folder = SameFolder(path)
        self._opened: dict[str, MappedRows] = {}

    @property
    def request(self) -> dict[str, Any]:
        """Everything that decided the content: model, text, packing, layers, types."""
        return self.manifest.request

    @property
    def model_name(self) -> str | None:
        """Name of the language model whose activations these are; None where the request names none."""
        model = self.request.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        return None if name is None else str(name)

    @property
    def plan(self) -> dict[str, Any]:
        """How the harvest was executed."""
        return self.manifest.plan

    @property
    def context(self) -> int:
        """Tokens in a sequence."""
        return self._layout.context

    @property
    def n_sequences(self) -> int:
        """Packed sequences, the rows of every array."""
        return self._layout.n_sequences

    @property
    def layers(self) -> dict[int, int]:
        """Layer -> width d of its residual stream."""
        return self._layout.layers

    @property
    def dtype(self) -> str:
        """Type of the activations: bfloat16, float16 or float32."""
        return self._layout.dtype

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same as a torch type."""
        return getattr(torch, self.dtype)

    def check(self, progress: Progress = SILENT) -> None:
        """Compare every byte with its sha256; raises Problem with a list of every bad file."""
        refuse(self.path, wrong_store(self.path, self.manifest, progress))

    def check_files(self, names: Iterable[str], progress: Progress = SILENT) -> None:
        """The same for some files. Raises Problem that lists every bad one."""
        files = {name: self.manifest.stored[name] for name in names}
        refuse(self.path, wrong_contents(self.path, files, progress))

    def rows(self, split: str) -> np.ndarray:
        """int64 [n]: the sequences of a split ("train" or "heldout"), ascending."""
        if split not in SPLITS:
            raise Problem("Unknown split.", expected=" or ".join(SPLITS), found=split, usage=True)
        return np.flatnonzero(self._row_splits == SPLITS.index(split))

    @cached_property
    def _row_splits(self) -> np.ndarray:
        """int8 [n_sequences]: index into SPLITS of each sequence; -1 where it has no kept token."""
        train = is_train(self._verified(DOCUMENTS)[DOCUMENTS])
        array = self._layout.document
        last = [self._rows_of(array).shard(shard).max(axis=1) for shard in range(array.n_shards)]
        document = np.concatenate(last)
        return np.where(document < 0, -1, ~in_train(document, train)).astype(np.int8)

    def window(self, layer: int, row: int) -> Float[Tensor, "context d"]:
        """Sequence `row` as a view of the memory map, for reading only. Costs no copy."""
        (number,) = self._checked([row]).tolist()
        window = self._rows_of(self._activations(layer)).row(number)
        return torch.from_numpy(window).view(self.torch_dtype)

    def read(
        self, layer: int, rows: Rows, out: Float[Tensor, "n context d"] | None = None
    ) -> Float[Tensor, "n context d"]:
        """A copy of the sequences `rows` in storage type, into `out` where given (contiguous, that type)."""
        array = self._activations(layer)
        shape = (len(rows), *array.shape[1:])
        if out is None:
            out = torch.empty(shape, dtype=self.torch_dtype)
        bits = (out.view(torch.uint16) if out.dtype == torch.bfloat16 else out).numpy()
        if out.dtype != self.torch_dtype or bits.shape != shape or not bits.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {tuple(out.shape)}, expected {self.torch_dtype} {shape}")
        self._gather(array, rows, bits)
        return out

    def tokens(self, rows: Rows) -> Int32[np.ndarray, "n context"]:
        """Token ids of the sequences `rows`."""
        return self._gather(self._layout.tokens, rows)

    def document(self, rows: Rows) -> Int32[np.ndarray, "n context"]:
        """Row of `documents` that each token belongs to; -1 at BOS and padding, which is what is not kept."""
        return self._gather(self._layout.document, rows)

    def rows_with(self, documents: np.ndarray) -> np.ndarray:
        """int64 [n]: the sequences that hold a token of any of these documents, ascending."""
        rows = self._rows_of(self._layout.document)
        held = [np.isin(rows.shard(shard), documents).any(axis=1) for shard in range(self._layout.n_shards)]
        return np.flatnonzero(np.concatenate(held))

    @cached_property
    def documents(self) -> pd.DataFrame:
        """One row a document: id, source, label, split, n_tokens."""
        return read_documents(self._verified(DOCUMENTS)[DOCUMENTS])

    def statistics(self, layer: int) -> Statistics:
        """Mean, variance and norms of a layer over the kept tokens of the train split."""
        self._activations(layer)
        files = self._verified(*self._layout.statistics_paths(layer))
        return parse_statistics(self._layout, layer, files)

    def _verified(self, *names: str) -> dict[str, bytes]:
        """Path -> content of files that are read as a whole: refused where the sha256 differs."""
        records = {name: self.manifest.stored[name] for name in names}
        refuse(self.path, wrong_sizes(self.path, records))
        files = {name: (self.path / name).read_bytes() for name in names}
        differing = [name for name in names if FileRecord.of(files[name]) != records[name]]
        refuse(self.path, [BadFile(name, f"sha256 {records[name].sha256}", "other content") for name in differing])
        return files

    def windows(self, layer: int, split: str = "train", batch_rows: int = 16, seed: int = 0) -> Windows:
        """Shuffled batches of `batch_rows` sequences of a split."""
        self._activations(layer)
        return Windows(self, layer, split, batch_rows, seed)

    def _activations(self, layer: int) -> ShardedArray:
        if layer not in self.layers:
            raise Problem(
                "This store does not have that layer.",
                where=self.path.absolute(),
                expected=f"one of {', '.join(map(str, self.layers))}",
                found=layer,
                do=f"harvest it: `pipeline harvest --layer {layer}`",
                usage=True,
            )
        return self._layout.activations[layer]

    def _rows_of(self, array: ShardedArray) -> MappedRows:
        """The rows of an array, mapped on first use and then kept."""
        rows = self._opened.get(array.path)
        if rows is None:
            rows = self._opened[array.path] = self._open(array)
        return rows

    def _open(self, array: ShardedArray) -> MappedRows:
        if array not in self.manifest.encoded_arrays():
            return mapped(self._folder, array)
        if not any(isinstance(rows, EncodedRows) for rows in self._opened.values()):
            warnings.warn(
                f"{self.path} is not in its raw form: its rows are decoded one by one, which is many times slower "
                "than mapping them. `pipeline store pull` makes a raw copy.",
                stacklevel=2,
            )
        name = array.metadata_path
        return mapped(self._folder, array, EncodedArray.parse(array, self._verified(name)[name], self.path / name))

    def _gather(self, array: ShardedArray, rows: Rows, out: np.ndarray | None = None) -> np.ndarray:
        """Copy `rows` of an array into `out`: one straight copy a row, from page cache to its place."""
        if out is None:
            out = np.empty((len(rows), *array.shape[1:]), array.storage)
        self._rows_of(array).take(self._checked(rows), out)
        return out

    def _checked(self, rows: Rows) -> np.ndarray:
        numbers = np.asarray(rows, np.int64)
        listed = numbers.tolist()  # of few numbers a list has its minimum sooner than an array
        if listed and not 0 <= min(listed) <= max(listed) < self.n_sequences:
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of a store of {self.n_sequences}")
        return numbers
