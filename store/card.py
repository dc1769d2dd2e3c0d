"""`README.md` of a store: what it is, from what it was made, how to open it."""

from __future__ import annotations

from collections.abc import Mapping

from store.layout import hook_name
from store.manifest import Manifest

_TEMPLATE = """\
# Activation store

{n_sequences:,} sequences of {context} tokens, in the order of the text, with the activations of
{hooks} in {dtype}.

| | |
|---|---|
{facts}

## Opening it

```python
import store

activations = store.open("path/to/this/folder")
activations.check()  # every byte against its sha256
window = activations.window({layer}, 0)  # torch view of the memory map [context, d]
batches = activations.windows({layer}, "train")  # batches.batch(0), batches.batch(1), ...
```

Any Zarr v3 reader opens it too{bfloat16}:

```python
import zarr

group = zarr.open_group("path/to/this/folder/activations.zarr", mode="r")
x = group["layers/{layer}/resid_post"]  # [sequence, position, feature]
tokens, document = group["tokens"], group["document"]
```

`document` is the row of `documents.parquet` that a token belongs to, and -1 for BOS and padding.
`layers/<L>/statistics` holds the mean and variance per dimension and the mean norm per position of the
training documents. `manifest.json` names every file with its size and sha256.
"""


def card(manifest: Manifest, facts: Mapping[str, str]) -> bytes:
    """Text of the card: `facts` are its rows, in their order. A copied store keeps it: it names no place."""
    layers = sorted(manifest.layers)
    bfloat16 = " (bfloat16 is kept as the bits of a uint16)" if manifest.dtype == "bfloat16" else ""
    return _TEMPLATE.format(
        n_sequences=manifest.n_sequences,
        context=manifest.context,
        hooks=", ".join(f"`{hook_name(layer)}` (d = {manifest.layers[layer]})" for layer in layers),
        dtype=manifest.dtype,
        facts="\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()),
        layer=layers[-1],
        bfloat16=bfloat16,
    ).encode()


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
