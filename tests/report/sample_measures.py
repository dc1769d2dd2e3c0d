"""Temporal metrics and probes of runs that never were, in the form that an evaluation leaves behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.evaluate.catalogue import CATALOGUE
from stages.evaluate.versions import PROBING, TEMPORAL, fingerprint

DIGEST = "0123456789abcdef" * 4
DECIDED = {"run": DIGEST}
CONTEXT = 128
MIN_PAIRS = 1000
SCALES = {"short": (1, 4), "medium": (5, 16), "long": (17, 127)}
NULLS = ("inputs_permuted", "codes_permuted", "untrained", "activations")
FLAT = (
    *("tcs_short", "tcs_medium", "tcs_long", "fsm_support", "fsm_magnitude", "slowness", "smoothness"),
    *("lifetime_ratio", "integrated_time", "turnover", "turnover_sentence_boundary", "turnover_document_boundary"),
    *("position_slope", "position_correlation", "effective_rank", "high_correlation_share", "lift_edges"),
)
"""Temporal metrics that `summary.json` has."""
ERRORS = {"tcs_short": 0.0016, "tcs_medium": 0.0013, "tcs_long": 0.0011}
ERRORS |= {"fsm_support": 0.0011, "fsm_magnitude": 0.0006, "smoothness": 0.0003, "lifetime_ratio": 0.003}
KS = (1, 5, 10, 20)


def make_temporal(correlation: float | None) -> dict[str, Any] | None:
    """What `temporal.json` holds for codes with this autocorrelation at lag 1; None without one."""
    if correlation is None:
        return None
    pairs = [int(92000 * np.exp(-lag / 16)) for lag in range(1, CONTEXT)]
    shares = {"codes": 1, "codes_inputs_permuted": 0.55, "codes_permuted": 0.5, "untrained": 0.9}
    shares |= {"untrained_inputs_permuted": 0.5}
    measures = {name: make_measure(correlation * share, pairs) for name, share in shares.items()}
    for name in ("codes", "untrained"):  # pairs of latents are looked at in the order of the text only
        measures[name]["patterns"]["lift"] = {"latents": 2291, "tests": 5_000_000, "edges": int(1e6 * correlation)}
        measures[name]["patterns"]["redundancy"] = {"columns": 2291, "high_share": 1e-4, "effective_rank": 1500.0}
    measures["activations"] = make_measure(0.31, pairs, fires=False)
    measures["activations_permuted"] = make_measure(0.17, pairs, fires=False)
    scales = {
        scale: {
            "lags": [low, high],
            "used": [lag for lag in range(low, high + 1) if lag <= len(pairs) and pairs[lag - 1] >= MIN_PAIRS],
        }
        for scale, (low, high) in SCALES.items()
    }
    return {
        "format": "tsae-temporal",
        "version": 3,
        "fingerprint": fingerprint(TEMPORAL, DECIDED),
        "tokens": 90500,
        "rows": 720,
        "pairs": pairs,
        "min_pairs": MIN_PAIRS,
        "scales": scales,
        "measures": measures,
        "replicates": {},
    }


def make_measure(correlation: float, pairs: list[int], fires: bool = True) -> dict[str, Any]:
    """The measures of one kind of codes."""
    lags = np.arange(1, CONTEXT)
    curve = correlation * (0.55 * np.exp(-(lags - 1) / 3) + 0.45 * np.exp(-(lags - 1) / 40))
    known = [float(r) if n >= MIN_PAIRS else None for r, n in zip(curve, pairs, strict=True)]
    tcs = {}
    for scale, (low, high) in SCALES.items():
        used = [r for r in known[low - 1 : high] if r is not None]
        tcs[scale] = sum(used) / len(used) if used else None
    return {
        "latents": 2291,
        "tokens": 90500,
        "tcs": tcs,
        "tcs_binary": tcs if fires else dict.fromkeys(SCALES),
        "autocorrelation": known,
        "autocorrelation_firing_weighted": known if fires else [None] * len(known),
        "slowness": 2 * (1 - correlation),
        "fsm_support": 0.1 + 0.3 * correlation if fires else None,
        "fsm_magnitude": 0.5 + 0.3 * correlation if fires else None,
        "persistence": {d: known[int(d) - 1] if fires else None for d in ("1", "4", "16", "64")},
        "smoothness": 0.2 - 0.1 * correlation,
        "level_smoothness": [],
        "patterns": make_patterns(correlation, fires),
        "standard_errors": ERRORS if fires else {name: error for name, error in ERRORS.items() if "fsm" not in name},
    }


def make_patterns(correlation: float, fires: bool) -> dict[str, Any]:
    """The patterns of codes, or of activations, with this autocorrelation at lag 1."""
    deciles = [
        {
            "density": 0.001 * 2**i,
            "tokens": 1.2,
            "ratio": 1 + correlation + 0.02 * i,
            "geometric": 1.2,
            "integrated_time": 2.0,
        }
        for i in range(10)
    ]
    lifetime = {"tokens": 1.2, "ratio": 1 + correlation, "geometric": 1.2, "deciles": deciles}
    transitions = {"on": 0.01, "stay": 0.2, "turnover": 0.9 - correlation}
    transitions |= {"turnover_interior": 0.89 - correlation, "turnover_sentence_boundary": 0.93 - correlation}
    transitions |= {
        "turnover_document_boundary": 0.97 - correlation,
        "response_sentence": 1.1,
        "response_document": 1.2,
    }
    return {
        "integrated_time": 1 + 10 * correlation,
        "position": {"correlation_mean": 0.03, "slope": 0.02},
        "redundancy": None,
        "lifetime": lifetime if fires else None,
        "transitions": transitions if fires else None,
        "lift": None,
        "clusters": {"silhouette": 0.4, "stability": 0.9, "sizes": [2000, 291], "centres": []} if fires else None,
    }


def make_probing(correlation: float | None) -> dict[str, Any] | None:
    """What `probing.json` holds for codes with this autocorrelation at lag 1: nobody tagged the parts of speech."""
    if correlation is None:
        return None
    definitions = {
        "semantics": "the topic",
        "semantics_mean": "the topic",
        "syntax": "the word",
        "context": "which one",
    }
    tasks = {name: make_task(definition, correlation) for name, definition in definitions.items()}
    nothing = {"reason": "spaCy is not there", "examples": 0, "documents": 0, "classes": {}}
    tasks["syntax"] |= {**nothing, "scores": {signal: {} for signal in tasks["syntax"]["scores"]}}
    return {
        "format": "tsae-probing",
        "version": 1,
        "fingerprint": fingerprint(PROBING, DECIDED),
        "k": list(KS),
        "tasks": tasks,
    }


def make_task(definition: str, correlation: float) -> dict[str, Any]:
    """A task whose probes are better the more autocorrelation there is."""
    return {
        "definition": definition,
        "reason": None,
        "examples": 243,
        "documents": 243,
        "classes": {"Arts": 120, "History": 123},
        "scores": {
            "codes": {str(k): make_score(0.5 + correlation + 0.005 * k) for k in KS},
            "untrained": {str(k): make_score(0.4 + 0.005 * k) for k in KS},
            "activations": {"all": make_score(0.9)},
            "majority": {"all": make_score(0.22)},
        },
    }


def make_score(accuracy: float) -> dict[str, Any]:
    """Of a probe."""
    return {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.05, accuracy + 0.06], "accuracy_se": 0.03}


def flat(temporal: dict[str, Any] | None) -> dict[str, float | None]:
    """The numbers of `temporal.json` that an evaluation repeats in `summary.json`."""
    if temporal is None:
        return {}
    summary: dict[str, float | None] = {f"{name}_se": error for name, error in ERRORS.items()}
    measures = temporal["measures"]
    for null in ("", *NULLS):
        measure = measures.get(null) or measures[f"codes_{null}" if null else "codes"]
        suffix = f"_{null}" if null else ""
        summary |= {f"{name}{suffix}": CATALOGUE[name].at(measure) for name in FLAT}
    return summary


def flat_probes(probing: dict[str, Any] | None) -> dict[str, float | None]:
    """The same of `probing.json`."""
    summary: dict[str, float | None] = {}
    for name, task in (probing or {"tasks": {}})["tasks"].items():
        score = task["scores"]["codes"].get("5", {})
        summary |= {f"probe_{name}_k5": score.get("accuracy"), f"probe_{name}_k5_se": score.get("accuracy_se")}
    return summary
