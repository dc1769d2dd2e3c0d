"""What `core.json` says of numbers that SAEBench 0.6.0 does not have: SAELens 6.54's where they differ, and ours."""

from __future__ import annotations

from stages.evaluate.catalogue import CATALOGUE

DEFINITIONS = "tsae-pipeline, by the definitions of SAEBench 0.6.0"
"""Stands where SAEBench writes the commit of the folder that it was started in."""

SCALARS = {
    **{
        name: CATALOGUE[name].text
        for name in ("explained_variance_centred", "explained_variance_saelens", "mse_saelens", "l1_saelens")
    },
    "l0_events": "Mean number of latents with an event > 0; SAEBench's l0 counts codes, which some SAEs make dense.",
}
"""Scalars. `kl_div_*` use log_softmax as SAELens does: they are SAEBench's, which takes the logarithm of a softmax, and
are finite where that underflows."""

LATENTS = {
    "feature_density_saelens": "SAELens 6.54's feature_density: share of tokens with code != 0; SAEBench's is > 0.",
    "consistent_activation_heuristic_saelens": "SAELens 6.54's: tokens a row with code != 0; SAEBench's is > 0.",
    "event_density": "Share of kept tokens with an event > 0; SAEBench's density counts the codes made of events.",
}
"""Metrics of single latents, which are left out where they equal SAEBench's."""
