"""Names that become parts of paths."""

from __future__ import annotations

import re
from typing import Any

FIT = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*")
"""What may stand in the name of a folder and of a git reference."""
RULE = "only letters, digits, _, +, - and single dots between them can be in a name"


def fit(name: Any) -> Any:
    """The name as it is. Raises a ValueError for one that no folder should have."""
    if not FIT.fullmatch(str(name)):
        raise ValueError(RULE)
    return name
