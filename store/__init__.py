"""Activation stores: a language model's activations on disk, in token order. `STORE.md` specifies the format.

`store.open(folder)` gives an `ActivationStore`; training reads `windows(layer, "train").batch(step)` of it.
"""

from store.manifest import StoreSpec
from store.reader import ActivationStore
from store.reader import open_store as open
from store.verify import verify
from store.writer import OtherContent, StoreWriter, remove_store

__all__ = ["ActivationStore", "OtherContent", "StoreSpec", "StoreWriter", "open", "remove_store", "verify"]
