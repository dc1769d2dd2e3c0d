"""Every metric of an evaluation: what it is called, its unit, which way is better, and its definition."""

from __future__ import annotations

from dataclasses import replace

from stages.evaluate.definition import Definition
from stages.evaluate.probing.tasks import DEFINITIONS
from stages.evaluate.temporal.catalogue import CONSISTENCY, KINDS, LIFETIMES, TRANSITIONS
from stages.evaluate.unlearned import Unlearned

SUMMARY_K = 5
"""Latents a class of the probes that `summary.json` has, those of the T-SAE paper's table of ablations."""

TRAINING = (
    Definition("steps_done", "Steps", "steps", 0, "Steps of the optimiser that the training did."),
    Definition("training_tokens", "Training tokens", "tokens", 0, "Tokens that the training saw, with repetitions."),
)
RECONSTRUCTION = (
    Definition(
        "explained_variance_centred",
        "Explained variance",
        "1",
        1,
        "1 - Σ‖x - x̂‖² / Σ‖x - mean‖² over all heldout tokens: 1 is perfect, 0 is as good as always answering with the "
        "mean.",
        "It is the centred definition. SAEBench's own two are among all numbers, under their names; the one that it "
        "calls explained_variance flatters an SAE and with large activations goes above 1.",
    ),
    Definition(
        "explained_variance_saebench",
        "Explained variance, SAEBench",
        "1",
        1,
        "SAEBench 0.6.0's explained_variance, which subtracts (E‖x‖²/d)² where the squared mean belongs.",
    ),
    Definition(
        "explained_variance_legacy",
        "Explained variance, legacy",
        "1",
        1,
        "SAEBench's explained_variance_legacy, the mean over tokens of 1 - ‖x - x̂‖² / ‖x - mean of the batch‖².",
    ),
    Definition(
        "explained_variance_saelens",
        "Explained variance, SAELens",
        "1",
        1,
        "SAELens 6.54's explained_variance: the centred one, but 1 or 0 where all inputs are equal.",
    ),
    Definition(
        "mse_saelens",
        "Squared error, SAELens",
        "squared activations",
        -1,
        "SAELens 6.54's mse: mean over kept tokens of ‖x - x̂‖²; SAEBench's divides each by the kept tokens of its "
        "batch.",
    ),
    Definition(
        "mse_saebench",
        "Squared error, SAEBench",
        "squared activations",
        -1,
        "SAEBench 0.6.0's mse: mean over kept tokens of ‖x - x̂‖² over the kept tokens of the batch.",
    ),
    Definition(
        "relative_reconstruction_bias",
        "Reconstruction bias",
        "1",
        0,
        "Factor by which a batch's reconstructions had best be divided: Σ‖x̂‖² / Σ x·x̂, the mean over batches.",
    ),
    Definition("l2_norm_in", "Norm of activations", "activations", 0, "Mean norm of activations."),
    Definition("l2_norm_out", "Norm of reconstructions", "activations", 0, "Mean norm of reconstructions."),
    Definition("cossim", "Cosine", "1", 1, "Mean cosine between activations and their reconstructions."),
    Definition(
        "l2_ratio", "Norm ratio", "1", 0, "Mean norm of reconstructions over that of activations: below 1 they shrink."
    ),
)
SPARSITY = (
    Definition(
        "l0",
        "L0",
        "latents a token",
        0,
        "Active latents a token, the price at which an explanation comes.",
        "Compare runs of similar L0.",
    ),
    Definition(
        "l0_codes",
        "L0 of codes",
        "latents a token",
        0,
        "Codes a token that are not 0: more than L0 where they are dense by construction.",
    ),
    Definition(
        "l1_saebench",
        "L1, SAEBench",
        "activations",
        0,
        "SAEBench 0.6.0's l1: mean of the sum of codes with their signs.",
    ),
    Definition(
        "l1_saelens",
        "L1, SAELens",
        "activations",
        0,
        "SAELens 6.54's l1: mean over kept tokens of the sum of |codes|; SAEBench sums codes with their sign.",
    ),
    Definition("dead_latents", "Dead latents", "latents", 0, "Latents that were active at no heldout token."),
)
BEHAVIOUR = (
    Definition(
        "ce_loss_score",
        "CE score",
        "1",
        1,
        "The language model reads the SAE's reconstruction in place of its residual stream: at 1 it predicts the next "
        "token as well as before, at 0 as badly as with the residual stream set to zero.",
    ),
    Definition(
        "kl_div_score",
        "KL score",
        "1",
        1,
        "As the CE score, of the divergence of the predicted distribution from the unmodified model's.",
    ),
    Definition("ce_loss_with_sae", "CE with SAE", "nats", -1, "Cross-entropy of the next token with the SAE."),
    Definition("ce_loss_without_sae", "CE without SAE", "nats", 0, "Cross-entropy of the next token as it is."),
    Definition(
        "ce_loss_with_ablation", "CE of zeros", "nats", 0, "Cross-entropy with the residual stream set to zero."
    ),
    Definition("kl_div_with_sae", "KL with SAE", "nats", -1, "Divergence from the unmodified model with the SAE."),
    Definition("kl_div_with_ablation", "KL of zeros", "nats", 0, "Divergence with the residual stream set to zero."),
)
TEMPORAL = (*CONSISTENCY, *LIFETIMES, *TRANSITIONS, *KINDS)
CATALOGUE = {each.name: each for each in (*TRAINING, *RECONSTRUCTION, *SPARSITY, *BEHAVIOUR, *TEMPORAL)}
"""By name; those of levels and probes, of which an SAE has as many as it has, are made below."""

LEVELS = (
    replace(CATALOGUE["explained_variance_centred"], reading="Of a level with those before it."),
    CATALOGUE["l0"],
    Definition("alive", "Alive", "1", 1, "Share of the latents that a Matryoshka level adds that fire at all."),
    CATALOGUE["smoothness"],
)
PROBED = {
    "semantics": "Topic (last token)",
    "semantics_mean": "Topic (all tokens)",
    "syntax": "Part of speech",
    "context": "Which document",
}
"""What probes tell, by the names of the tasks."""

UNLEARNED = Definition(
    "unlearning_score",
    "Unlearning score",
    "1",
    1,
    "1 less the share of the known questions on what is to be forgotten that are still answered: the least such share "
    "among the settings that leave 99 % of the other known questions answered, 1 where none does.",
    "SAEBench's. It is the best of a sweep, so 0 is no null: chance forgets a question now and then.",
)

REFERENCES = {
    "null_inputs_permuted": (
        "Inputs permuted",
        "Tokens in random order within their documents: what is left of a metric comes from what the tokens of a "
        "document have in common, not from their order.",
    ),
    "null_codes_permuted": (
        "Codes permuted",
        "The codes of the text in its order, themselves in random order within documents: the same as permuted inputs "
        "for an SAE of single tokens.",
    ),
    "untrained": (
        "Untrained",
        "An SAE of the same parts and size as training would begin with it, with as many active latents.",
    ),
    "activations": ("Raw activations", "The activations themselves, a dimension in place of a latent."),
    "majority": ("Most frequent class", "The accuracy of always telling the class that is most frequent in training."),
    "gain": (
        "Gain",
        "What training made of the order of tokens: by how much the metric exceeds its null of permuted inputs, less "
        "that of the untrained SAE.",
    ),
}
"""What stands beside a value: title and meaning, by columns of the comparison."""


def of_level(i: int) -> tuple[Definition, ...]:
    """The metrics of a Matryoshka level, from 0."""
    return tuple(
        replace(
            each,
            name=f"level{i}_{each.name}",
            title=f"Level {i + 1}: {each.title}",
            path=("level_smoothness", i) if each.name == "smoothness" else (),
        )
        for each in LEVELS
    )


def of_probe(task: str, k: int) -> Definition:
    """The metric of a task's probe that reads k latents a class."""
    text = f"Accuracy of a logistic regression that reads the {k} most telling latents a class: {DEFINITIONS[task]}."
    return Definition(f"probe_{task}_k{k}", f"{PROBED[task]} from {k} latent{'s' if k > 1 else ''}", "1", 1, text)


def of_unlearning(window: int, unlearned: Unlearned, plain: str | None) -> Definition:
    """The score of an unlearning with latents that stay clamped for so many tokens. Of all tasks but the `plain` one
    the name has digits, so that scores of one name can be compared."""
    trailing = window > 1
    digits = [] if unlearned.task == plain else [unlearned.task[:8]]
    name = [UNLEARNED.name, *digits, *([f"window{window}"] if trailing else [])]
    text = [UNLEARNED.text, *([f"A latent stays clamped for {window} tokens after it fired."] if trailing else [])]
    return replace(
        UNLEARNED,
        name="_".join(name),
        title=UNLEARNED.title + (f", trailing window of {window}" if trailing else ""),
        text=" ".join([*text, f"To be forgotten: {unlearned.material['forget_set']}."]),
    )
