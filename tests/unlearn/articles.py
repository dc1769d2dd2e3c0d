"""A corpus with topics and descriptions, as the package of the embedded profile is one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.language_model.test_corpus import install
from tests.tiny import SENTENCES

COUNT = 12
TOPICS = {"Persons": COUNT, "Places": COUNT, "Things": COUNT}
"""Articles by topic."""


def install_articles(folder: Path, patch: pytest.MonkeyPatch, topics: Mapping[str, int] = TOPICS) -> str:
    """Put a package of short articles where Python finds it; returns the source that names it."""
    entries = {
        f"{topic} {i}": {
            "title": f"{topic[:-1]} number {i}",
            "extract": f"{topic} {i}: " + " ".join([SENTENCES[i % len(SENTENCES)]] * 4),
            "topic": topic,
            "description": f"{topic} of kind {i}",
        }
        for topic, count in topics.items()
        for i in range(count)
    }
    install(folder, "tiny-wiki", {"tiny_wiki/data/summaries_en-us.json": json.dumps(entries).encode()})
    patch.setattr(sys, "path", [str(folder), *sys.path])
    return "package:tiny-wiki"
