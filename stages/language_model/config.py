"""What to load and what to read: configurations alone, quick to import."""

from __future__ import annotations

from dataclasses import dataclass

from store.problem import Problem

PACKAGE = "package:"
"""Start of a source that an installed package carries."""

DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig:
    """Which language model to load, and how."""

    name: str
    """The name that stores, SAEs and reports carry, e.g. `google/gemma-2-2b`."""
    source: str
    """Where the weights are: a hub id, a folder, a .gguf file, or `package:NAME`."""
    sha256: str | None = None
    """What a GGUF's bytes must hash to; None accepts any."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the machine multiplies it in hardware."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise Problem("Unknown model dtype.", expected=", ".join(DTYPES), found=self.dtype, usage=True)


@dataclass(frozen=True)
class CorpusConfig:
    """Which text to read."""

    source: str
    """`package:NAME`, a hub data set, or a file or folder of .txt (one document each), .jsonl and .parquet."""
    text_column: str = "text"
    """The column that holds the text (.jsonl, .parquet and hub data sets)."""
    revision: str | None = None
    """Commit of a hub data set; None is the newest, or the one that a store of the profile has already."""
    tokens: int | None = None
    """Stop once the packed rows hold this many positions; None reads everything."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens <= 0:
            raise Problem("A corpus needs tokens.", expected="tokens > 0", found=self.tokens, usage=True)
