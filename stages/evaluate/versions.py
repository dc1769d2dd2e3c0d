"""The files of an evaluation, and the versions of the code behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from store.files import digest

CORE = "core.json"
TEMPORAL = "temporal.json"
PROBING = "probing.json"
SUMMARY = "summary.json"
"""The flat numbers of the others."""

VERSIONS = {CORE: 6, TEMPORAL: 5, PROBING: 5}
"""A version is raised when a change to the code changes a number in its file: that file is measured again, the others
are kept. Where a number is removed all are raised, or `summary.json` would keep the old one."""


def fingerprint(part: str, decided: Mapping[str, Any]) -> str:
    """Digest of everything that decides the numbers of one file: the version of its code, and what was measured."""
    return digest({"metrics_version": VERSIONS[part], **decided})
