"""Activation stores: a language model's activations on disk, in token order. `STORE.md` specifies the format.

`store.open(folder_or_url)` gives an `ActivationStore`; training reads `windows(layer, "train").batch(step)` of it, or
`prefetch` of those windows. A batch's `split()` cuts it at the boundaries of documents. `push` and `pull` share stores.
"""

from store.manifest import StoreSpec
from store.mirror import open_store as open
from store.partial import PartialStore
from store.prefetch import prefetch
from store.reader import ActivationStore
from store.repair import repair
from store.sharing import Transfer, pull, push
from store.subset import Selection, subset
from store.verify import verify
from store.windows import RaggedBatch, WindowBatch, Windows
from store.writer import OtherContent, StoreWriter, remove_store

__all__ = [
    "ActivationStore",
    "OtherContent",
    "PartialStore",
    "RaggedBatch",
    "Selection",
    "StoreSpec",
    "StoreWriter",
    "Transfer",
    "WindowBatch",
    "Windows",
    "open",
    "prefetch",
    "pull",
    "push",
    "remove_store",
    "repair",
    "subset",
    "verify",
]
