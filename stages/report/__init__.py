"""Stage 4: one page that says what was found, and opens offline."""

from stages.report.report import report

__all__ = ["report"]
