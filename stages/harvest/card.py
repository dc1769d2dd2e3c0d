"""What the card of a harvested store says, from its request and plan alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from store.manifest import Manifest
from store.subset import subset_facts


def card_facts(request: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, str]:
    """Rows of the card of a harvested store."""
    return {
        "Language model": str(request["model"]["name"]),
        "Hook points": ", ".join(request["hooks"]),
        "Text": str(request["corpus"]["source"]),
        "Licence of the text": str(request["corpus"].get("licence") or "as its source states"),
        "Packing": f"{request['packing']}, {request['context']} positions a row, BOS first",
        "Forward pass": f"{plan['compute_dtype']}, {plan['attention']} attention, "
        f"{'compiled' if plan['compiled'] else 'eager'}, batches of {plan['batch_rows']}",
    }


def known_facts(manifest: Manifest) -> dict[str, str]:
    """The same for a store of any origin: for a subset of a harvested one too, and nothing for any other."""
    try:
        facts = card_facts(manifest.request, manifest.plan)
        if "subset" not in manifest.request:
            return facts
        del facts["Hook points"]  # those of the source; the card's first sentence names those that are here
        return {**subset_facts(manifest), **facts}
    except (KeyError, TypeError, AttributeError, IndexError):
        return {}
