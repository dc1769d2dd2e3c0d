"""How to read the numbers: the definitions of the catalogue as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from stages.evaluate.catalogue import REFERENCES, UNLEARNED
from stages.evaluate.temporal.catalogue import CONSISTENCY
from stages.report.evaluated_run import EvaluatedRun
from stages.report.metric import DEAD, KL, L0, QUALITY
from stages.report.probing_tables import has_probes
from stages.report.tables import has_temporal
from stages.report.temporal_tables import PATTERNS, has_patterns

CORE = tuple(metric.definition for metric in (QUALITY[0], L0, DEAD, QUALITY[1], KL))
TEMPORAL = ("null_inputs_permuted", "null_codes_permuted", "untrained", "activations", "gain")
PROBED_WITH = ("untrained", "activations", "majority")
"""What stands beside temporal metrics and beside probes."""


def terms(runs: Sequence[EvaluatedRun]) -> str:
    """What the page's metrics are, and what stands beside them; metrics of one definition share an entry."""
    shown, beside = list(CORE), set[str]()
    if has_temporal(runs):
        shown += CONSISTENCY
        beside |= set(TEMPORAL)
    if has_patterns(runs):
        shown += PATTERNS
    if has_probes(runs):
        beside |= set(PROBED_WITH)
    if any(run.unlearned for run in runs):
        shown.append(UNLEARNED)
    families = [list(family) for _, family in groupby(shown, key=lambda each: each.text)]
    entries = {", ".join(each.title for each in family): f"{family[0].text} {family[0].reading}" for family in families}
    entries |= {title: text for column, (title, text) in REFERENCES.items() if column in beside}
    return "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>\n" for title, text in entries.items())
