"""Activation stores: a language model's activations on disk, in token order. `STORE.md` specifies the format.

`store.open(folder)` gives an `ActivationStore`; training reads `windows(layer, "train").batch(step)` of it, or
`prefetch` of those windows. A batch's `split()` cuts it at the boundaries of documents.
"""

from store.manifest import StoreSpec
from store.partial import PartialStore
from store.prefetch import prefetch
from store.reader import ActivationStore
from store.reader import open_store as open
from store.verify import verify
from store.windows import RaggedBatch, WindowBatch, Windows
from store.writer import OtherContent, StoreWriter, remove_store

__all__ = [
    "ActivationStore",
    "OtherContent",
    "PartialStore",
    "RaggedBatch",
    "StoreSpec",
    "StoreWriter",
    "WindowBatch",
    "Windows",
    "open",
    "prefetch",
    "remove_store",
    "verify",
]
