"""The metrics of how codes behave over time."""

from __future__ import annotations

from stages.evaluate.definition import Definition
from stages.evaluate.temporal.consistency import SCALES
from stages.evaluate.temporal.lagged import FEW_LAGS


def _scales(name: str, title: str, better: int, text: str, reading: str = "") -> tuple[Definition, ...]:
    return tuple(
        Definition(f"{name}_{scale}", f"{title} {scale}", "1", better, text, reading, (name, scale)) for scale in SCALES
    )


def _pattern(name: str, title: str, unit: str, better: int, text: str, *path: str) -> Definition:
    return Definition(name, title, unit, better, text, path=("patterns", *(path or (name,))))


CONSISTENCY = (
    *_scales(
        "tcs",
        "TCS",
        1,
        "Temporal consistency: the autocorrelation of a latent's code, averaged over latents and over the lags of a "
        "scale (short: 1 to 4 tokens, medium: 5 to 16, long: from 17 on), 0 where two tokens of a document are no "
        "more alike than any two of the corpus and 1 where codes never change.",
        "At short and medium lags it rises with the number of active latents, and where rare latents die: it means "
        "something only beside L0, dead latents and explained variance.",
    ),
    *_scales("tcs_binary", "Firing TCS", 1, "TCS of whether a latent is active, as 0 or 1."),
    Definition(
        "fsm_support",
        "FSM support",
        "1",
        1,
        "Feature stability from one token to the next: active latents that two neighbouring tokens share, as a part of "
        "those that either has.",
        path=("fsm_support",),
    ),
    Definition(
        "fsm_magnitude",
        "FSM magnitude",
        "1",
        1,
        "1 minus the relative change, from one token to the next, of latents that both have.",
        path=("fsm_magnitude",),
    ),
    Definition(
        "slowness",
        "Slowness",
        "1",
        -1,
        "Mean squared change of a code from one token to the next over its variance: 2 where neighbours have nothing "
        "to do with each other, 0 where codes never change.",
        path=("slowness",),
    ),
    Definition(
        "smoothness",
        "Smoothness",
        "1",
        -1,
        "The largest change of a latent from one token to the next over the change of the activations, averaged over "
        "latents (T-SAE, arXiv 2511.05541): lower is smoother.",
        "It falls where more latents are active, each with smaller steps, so it is compared at equal L0.",
        path=("smoothness",),
    ),
    *(
        Definition(
            f"persistence_{lag}",
            f"Persistence {lag}",
            "1",
            1,
            "By how much more often a latent is active so many tokens after it was active than after it was not.",
            path=("persistence", str(lag)),
        )
        for lag in FEW_LAGS
    ),
)
LIFETIMES = (
    _pattern(
        "lifetime_ratio",
        "Lifetime against chance",
        "1",
        1,
        "How long a latent stays active over how long independent firings of its density would, median over latents: 1 "
        "where no firing depends on another.",
        "lifetime",
        "ratio",
    ),
    _pattern(
        "lifetime_tokens",
        "Lifetime",
        "tokens",
        0,
        "Mean tokens that a latent stays active (Kaplan and Meier, up to 64), median over latents: dense latents stay "
        "longer by chance.",
        "lifetime",
        "tokens",
    ),
    _pattern(
        "integrated_time",
        "Integrated time",
        "tokens",
        0,
        "Over how many tokens a code repeats itself, 1 plus twice the sum of its autocorrelation while that is "
        "positive, median over latents.",
    ),
)
TRANSITIONS = (
    _pattern(
        "turnover",
        "Turnover",
        "1",
        -1,
        "Share of the active latents of two adjacent tokens that only one of them has: 0 where the set stays, 1 where "
        "nothing of it does.",
        "transitions",
        "turnover",
    ),
    _pattern(
        "turnover_interior",
        "Turnover within sentences",
        "1",
        0,
        "Turnover between two tokens of one sentence.",
        "transitions",
        "turnover_interior",
    ),
    _pattern(
        "turnover_sentence_boundary",
        "Turnover at ends of sentences",
        "1",
        0,
        "Turnover from the last token of a sentence to the next one.",
        "transitions",
        "turnover_sentence_boundary",
    ),
    _pattern(
        "turnover_document_boundary",
        "Turnover at ends of documents",
        "1",
        0,
        "Turnover from the last token of a document to the first of the next in its row.",
        "transitions",
        "turnover_document_boundary",
    ),
    _pattern(
        "lift_edges",
        "Followers",
        "pairs of latents",
        0,
        "Pairs of latents of which one follows the other from token to token more often than if the tokens of each "
        "document stood in random order (5 % false discoveries, Benjamini and Hochberg).",
        "lift",
        "edges",
    ),
)
KINDS = (
    _pattern(
        "position_slope",
        "Position",
        "1",
        0,
        "Mean over latents of the absolute correlation of a code with the position in the row.",
        "position",
        "slope",
    ),
    _pattern(
        "position_correlation",
        "Across positions",
        "1",
        0,
        "Mean correlation, over rows, of a latent's codes at two positions of one document.",
        "position",
        "correlation_mean",
    ),
    _pattern(
        "effective_rank",
        "Effective rank",
        "latents",
        1,
        "Exponential of the entropy of the eigenvalues of the correlations between latents: as many as there are where "
        "none repeats another.",
        "redundancy",
        "effective_rank",
    ),
    _pattern(
        "high_correlation_share",
        "Near copies",
        "1",
        -1,
        "Share of the pairs of latents whose correlation is above 0.9 in size.",
        "redundancy",
        "high_share",
    ),
    _pattern(
        "cluster_silhouette",
        "Silhouette",
        "1",
        0,
        "How well k-means tells kinds of latents by their patterns: 1 clearly, 0 not at all.",
        "clusters",
        "silhouette",
    ),
    _pattern(
        "cluster_stability",
        "Stability of kinds",
        "1",
        0,
        "Adjusted Rand index between these kinds and those found on other samples of the latents.",
        "clusters",
        "stability",
    ),
)
