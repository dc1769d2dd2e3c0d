"""Which arrays and files a store of a given geometry consists of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from store.shards import ShardedArray, group_metadata

STORAGE = {"bfloat16": "uint16", "float16": "float16", "float32": "float32"}
"""Logical type of the activations -> type on disk. Zarr has no bfloat16, so its bits are kept as uint16."""

ROOT = "activations.zarr"
DOCUMENTS = "documents.parquet"
CARD = "README.md"
STATISTICS = {"mean": "feature", "variance": "feature", "norm_by_position": "position"}
"""Vector of a layer's statistics -> name of its axis."""


@dataclass(frozen=True)
class Layout:
    """Geometry of a store, and from it every path and every `zarr.json`."""

    n_sequences: int
    """Packed sequences, the rows of every array."""
    context: int
    """Tokens in a sequence."""
    rows_per_shard: int
    """Sequences in every shard but the last."""
    dtype: str
    """Logical type of the activations, a key of `STORAGE`."""
    layers: dict[int, int]
    """Layer -> width of its residual stream."""

    @cached_property
    def tokens(self) -> ShardedArray:
        """Token ids [sequence, position]."""
        return self._array("tokens", (), "int32", 0, {})

    @cached_property
    def document(self) -> ShardedArray:
        """Row of `documents.parquet` that each token belongs to [sequence, position]; -1 for none."""
        return self._array("document", (), "int32", -1, {})

    @cached_property
    def activations(self) -> dict[int, ShardedArray]:
        """Layer -> residual stream after that layer [sequence, position, feature]."""
        attributes = {"logical_dtype": self.dtype}
        return {
            layer: self._array(f"layers/{layer}/resid_post", (d,), STORAGE[self.dtype], 0, attributes)
            for layer, d in self.layers.items()
        }

    def _array(
        self, name: str, tail: tuple[int, ...], dtype: str, fill_value: int, attributes: dict[str, str]
    ) -> ShardedArray:
        dimensions = ("sequence", "position", "feature")[: 2 + len(tail)]
        shape = (self.n_sequences, self.context, *tail)
        return ShardedArray(f"{ROOT}/{name}", shape, self.rows_per_shard, dtype, dimensions, fill_value, attributes)

    @property
    def n_shards(self) -> int:
        """Shards of every array."""
        return self.tokens.n_shards

    def metadata(self) -> dict[str, bytes]:
        """Path -> `zarr.json` of every group and sharded array. The geometry decides their bytes."""
        groups: dict[str, dict[str, Any]] = {ROOT: {}, f"{ROOT}/layers": {}} | {
            f"{ROOT}/layers/{layer}": {"hook": hook_name(layer), "d": d} for layer, d in self.layers.items()
        }
        arrays = [self.tokens, self.document, *self.activations.values()]
        documents = {f"{path}/zarr.json": group_metadata(attributes) for path, attributes in groups.items()}
        return documents | {f"{array.path}/zarr.json": array.metadata() for array in arrays}

    def sequence_files(self) -> set[str]:
        """What is known once the text is packed: tokens, document ids, documents and all `zarr.json`."""
        return {DOCUMENTS, *self.metadata(), *self.tokens.files(), *self.document.files()}

    def shard_files(self, shard: int) -> dict[int, str]:
        """Layer -> file of the activations of shard `shard`."""
        return {layer: array.shard_path(shard) for layer, array in self.activations.items()}

    def statistics_folder(self, layer: int) -> str:
        """Group that holds the statistics of a layer."""
        return f"{ROOT}/layers/{layer}/statistics"

    def statistics_paths(self, layer: int) -> set[str]:
        """Files that keep the statistics of a layer."""
        folder = self.statistics_folder(layer)
        vectors = {f"{folder}/{name}/{file}" for name in STATISTICS for file in ("zarr.json", "c/0")}
        return {f"{folder}/zarr.json", *vectors}

    def derived_files(self) -> set[str]:
        """What follows from the rest: the statistics of every layer, and the card."""
        return {CARD}.union(*(self.statistics_paths(layer) for layer in self.layers))

    def sizes(self) -> dict[str, int]:
        """Path -> bytes of every shard and vector of statistics: the geometry decides them."""
        arrays = [self.tokens, self.document, *self.activations.values()]
        shards = {array.shard_path(i): array.shard_bytes(i) for array in arrays for i in range(array.n_shards)}
        vectors = {
            f"{self.statistics_folder(layer)}/{name}/c/0": 8 * {"feature": d, "position": self.context}[axis]
            for layer, d in self.layers.items()
            for name, axis in STATISTICS.items()
        }
        return shards | vectors

    def files(self) -> set[str]:
        """Every file of a complete store but the manifest."""
        shards = {file for array in self.activations.values() for file in array.files()}
        return self.sequence_files() | shards | self.derived_files()


def hook_name(layer: int) -> str:
    """TransformerLens name of the residual stream after `layer` (layers count from 0)."""
    return f"blocks.{layer}.hook_resid_post"
