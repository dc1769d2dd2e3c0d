"""Accuracy on questions and loss on text under interventions, all of which share the first layers' pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.evaluate.core.splicing import LOGIT_BYTES
from stages.language_model.splice import Splice
from stages.unlearn.estimate import Estimate
from stages.unlearn.questions import QuestionSet
from stages.unlearn.scoring import Prompt, Scoring
from stages.unlearn.text import Batch, Rows
from store.problem import Problem
from store.progress import SILENT, Progress

Interventions = Callable[
    [Float[Tensor, "batch seq d"], Int[Tensor, "batch seq"]], Iterator[tuple[str, Float[Tensor, "batch seq d"]]]
]
"""Of the residual stream after a layer and its segments: by name, what replaces it."""


class Asked(NamedTuple):
    """One question with its choices in one order."""

    question: int
    """Its place in its set."""
    prompts: list[Prompt]
    """What the model is asked."""
    n_choices: int
    """How many choices it has."""
    answer: int
    """Place of the right one."""


def untouched(
    resid: Float[Tensor, "batch seq d"], segments: Int[Tensor, "batch seq"]
) -> Iterator[tuple[str, Float[Tensor, "batch seq d"]]]:
    """The model as it is."""
    yield "", resid


@torch.no_grad()
def accuracies(
    splice: Splice,
    scoring: Scoring,
    asked: Sequence[Asked],
    interventions: Interventions,
    batch_rows: int,
    progress: Progress = SILENT,
) -> dict[str, Bool[np.ndarray, " asked"]]:
    """By intervention, which of the questions are answered rightly."""
    right: dict[str, list[bool]] = {}
    for group in _groups(asked, batch_rows):
        prompts = [prompt for each in group for prompt in each.prompts]
        batch = padded(prompts, scoring.lm.pad_id)
        for name, resid in interventions(splice.resid(batch.tokens), batch.segments):
            hidden = splice.tail(resid, batch.tokens)
            spans = [hidden[i, prompt.start : len(prompt.tokens)] for i, prompt in enumerate(prompts)]
            scores = map(scoring.scores, _logits(splice, spans), prompts)
            for each in group:
                of_choices = list(chain.from_iterable(islice(scores, len(each.prompts))))[: each.n_choices]
                right.setdefault(name, []).append(int(np.argmax(of_choices)) == each.answer)
        progress.advance(len(group))
    return {name: np.array(values) for name, values in right.items()}


def _logits(
    splice: Splice, spans: Sequence[Float[Tensor, "positions d"]]
) -> Iterator[Float[Tensor, "positions vocab"]]:
    """Those of each span. As many spans as fit a block share a product: the head's weights cost more to read than a few
    positions to multiply."""
    most, block = _positions_of_a_block(splice), list[Tensor]()
    for span in spans:
        if block and sum(map(len, block)) + len(span) > most:
            yield from splice.logits(torch.cat(block)).float().split([len(each) for each in block])
            block = []
        block.append(span)
    yield from splice.logits(torch.cat(block)).float().split([len(each) for each in block])


def _positions_of_a_block(splice: Splice) -> int:
    """Of how many positions logits are made at a time."""
    return max(1, LOGIT_BYTES // (4 * splice.vocabulary))


def ask(scoring: Scoring, questions: QuestionSet, places: Sequence[int]) -> list[Asked]:
    """Questions of a set, with their choices in the order that they have."""
    return [ask_one(scoring, questions, place, range(len(questions.questions[place].choices))) for place in places]


def ask_one(scoring: Scoring, questions: QuestionSet, place: int, order: Sequence[int]) -> Asked:
    """A question of a set, with its choices in an order."""
    question = questions.questions[place]
    prompts = scoring.prompts(question, questions.subject, order)
    return Asked(place, prompts, len(order), order.index(question.answer))


def known(
    splice: Splice, scoring: Scoring, questions: QuestionSet, batch_rows: int, progress: Progress = SILENT
) -> list[int]:
    """Places of the questions that the untouched model answers rightly, whatever the order of their choices.

    Order by order, and no further with a question that was answered wrongly once.

    Raises:
        Problem: a question is longer than the model's positions.
    """
    orders = [scoring.orders(question) for question in questions.questions]
    standing, found, number = list(range(len(orders))), list[int](), 0
    while True:
        number += 1
        drawn = {place: order for place in standing if (order := next(orders[place], None)) is not None}
        found += [place for place in standing if place not in drawn]
        if not drawn:
            return sorted(found)
        asked = [ask_one(scoring, questions, place, order) for place, order in drawn.items()]
        _check_lengths(asked, scoring)
        what = f"what the model knows of {questions.name}, order {number} of the choices"
        progress.start(what, len(asked), "questions")
        right = accuracies(splice, scoring, asked, untouched, batch_rows, progress)[""]
        standing = [each.question for each, is_right in zip(asked, right, strict=True) if is_right]


def _check_lengths(asked: Sequence[Asked], scoring: Scoring) -> None:
    longest = max(len(prompt.tokens) for each in asked for prompt in each.prompts)
    positions = getattr(scoring.lm.model.config.get_text_config(), "max_position_embeddings", longest)
    if longest > positions:
        raise Problem(
            "A question is longer than the language model's positions.",
            where=scoring.lm.name,
            expected=f"{positions} tokens at the most, with its choices",
            found=longest,
            do="leave the longest questions out",
        )


@torch.no_grad()
def losses(
    splice: Splice, rows: Rows, interventions: Interventions, batch_rows: int, progress: Progress = SILENT
) -> dict[str, Estimate]:
    """By intervention, the mean cross-entropy in nats of the tokens of documents, each given those before it."""
    sums: dict[str, list[Tensor]] = {}
    counts = []
    for batch in rows.batches(batch_rows):
        counted = batch.segments[:, 1:] >= 0
        targets = batch.tokens[:, 1:][counted]
        counts.append(counted.sum(1).double())
        for name, resid in interventions(splice.resid(batch.tokens), batch.segments):
            hidden = splice.tail(resid, batch.tokens)[:, :-1][counted.to(resid.device)]
            spent = torch.zeros(counted.shape, dtype=torch.float64)
            spent[counted] = _cross_entropy(splice, hidden, targets.to(resid.device)).double().cpu()
            sums.setdefault(name, []).append(spent.sum(1))
        progress.advance(1)
    found = {name: Estimate.of_rows(torch.cat(spent), torch.cat(counts)) for name, spent in sums.items()}
    for name, estimate in found.items():
        if not math.isfinite(estimate.value):
            raise Problem(
                "An intervention leaves the model without a finite loss.",
                where=name or "the untouched model",
                found=estimate.value,
                do="lower unlearn.multipliers",
            )
    return found


def _cross_entropy(splice: Splice, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """That of each position, a block of positions at a time."""
    positions = _positions_of_a_block(splice)
    blocks = zip(hidden.split(positions), targets.split(positions), strict=True)
    return torch.cat([F.cross_entropy(splice.logits(h).float(), own, reduction="none") for h, own in blocks])


def padded(prompts: Sequence[Prompt], pad_id: int) -> Batch:
    """Prompts as rows, padded on the right; BOS and padding belong to no document."""
    length = max(len(prompt.tokens) for prompt in prompts)
    tokens = torch.full((len(prompts), length), pad_id)
    segments = torch.full((len(prompts), length), -1, dtype=torch.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt.tokens)] = torch.tensor(prompt.tokens)
        segments[row, 1 : len(prompt.tokens)] = 0
    return Batch(tokens, segments)


def _groups(asked: Sequence[Asked], batch_rows: int) -> Iterator[list[Asked]]:
    """Questions whose prompts fill a batch, at least one each."""
    group: list[Asked] = []
    for each in asked:
        if group and sum(len(other.prompts) for other in group) + len(each.prompts) > batch_rows:
            yield group
            group = []
        group.append(each)
    if group:
        yield group
