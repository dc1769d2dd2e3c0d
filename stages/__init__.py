"""The stages of the pipeline: each reads what the one before left on disk."""
