"""Files of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from store.problem import Problem


def read_lines(path: Path, noun: str) -> Iterator[tuple[Any, str]]:
    """What each line that is not blank holds, and where it stands; `noun` is what messages call it.

    Raises:
        Problem: the file cannot be read, or a line is not JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): JSON strings may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"A file of {noun}s cannot be read.", where=path, found=error, usage=True) from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        if line.strip():
            try:
                found = json.loads(line)
                json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is valid JSON and no text
                yield found, where
            except (ValueError, RecursionError) as error:
                raise Problem(f"A {noun} is not JSON.", where=where, found=error) from None
