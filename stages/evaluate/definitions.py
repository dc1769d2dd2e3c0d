"""What the numbers mean that SAEBench 0.6.0 does not have: SAELens 6.54's where they differ from its own, and ours."""

from __future__ import annotations

DEFINITIONS = "tsae-pipeline, by the definitions of SAEBench 0.6.0"
"""Stands where SAEBench writes the commit of the folder that it was started in."""

SCALARS = {
    "explained_variance_centred": "1 - sum |x - y|^2 / sum |x - m|^2 over all kept tokens, m their mean",
    "explained_variance_saelens": "SAELens 6.54's explained_variance: the centred one, but 1 or 0 if inputs are equal",
    "mse_saelens": "SAELens 6.54's mse: mean of |x - y|^2 over kept tokens; SAEBench's is per token of a batch",
    "l1_saelens": "SAELens 6.54's l1: mean over kept tokens of the sum of |codes|; SAEBench sums codes with their sign",
    "l0_events": "mean number of latents with an event > 0; SAEBench's l0 counts codes, which some SAEs make dense",
}
"""Scalars; x are inputs, y outputs. `kl_div_*` use log_softmax as SAELens does: they are SAEBench's, which takes the
logarithm of a softmax, and are finite where that underflows."""

LATENTS = {
    "feature_density_saelens": "SAELens 6.54's feature_density: share of kept tokens with code != 0; SAEBench's is > 0",
    "consistent_activation_heuristic_saelens": "SAELens 6.54's: tokens a row with code != 0; SAEBench's is > 0",
    "event_density": "share of kept tokens with an event > 0; SAEBench's density counts the codes made of events",
}
"""Metrics of single latents, which are left out where they equal SAEBench's."""
