"""Activation stores: a language model's activations on disk, in token order. `STORE.md` specifies the format.

`store.open(folder)` gives an `ActivationStore`; training reads `windows(layer, "train").batch(step)` of it, or
`prefetch` of those windows. A batch's `split()` cuts it at the boundaries of documents.
"""

from store.manifest import StoreSpec
from store.prefetch import prefetch
from store.reader import ActivationStore
from store.reader import open_store as open
from store.repair import repair
from store.subset import Selection, subset
from store.verify import verify
from store.windows import RaggedBatch, WindowBatch, Windows
from store.writer import OtherContent, StoreWriter, remove_store

__all__ = [
    "ActivationStore",
    "OtherContent",
    "RaggedBatch",
    "Selection",
    "StoreSpec",
    "StoreWriter",
    "WindowBatch",
    "Windows",
    "open",
    "prefetch",
    "remove_store",
    "repair",
    "subset",
    "verify",
]
