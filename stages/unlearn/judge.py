"""Accuracy on questions and loss on text under interventions, all of which share the first layers' pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
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
            # One product for all prompts: the head's weights cost more to read than a few positions to multiply.
            logits = iter(splice.logits(torch.cat(spans)).float().split([len(span) for span in spans]))
            for each in group:
                scores = scoring.scores(list(islice(logits, len(each.prompts))), each.prompts, each.n_choices)
                right.setdefault(name, []).append(int(np.argmax(scores)) == each.answer)
        progress.advance(len(group))
    return {name: np.array(values) for name, values in right.items()}


def ask(scoring: Scoring, questions: QuestionSet, places: Sequence[int], every_order: bool) -> list[Asked]:
    """Questions of a set, in the order that they have or in every order of their choices."""
    found = []
    for place in places:
        question = questions.questions[place]
        orders = scoring.orders(question) if every_order else iter([tuple(range(len(question.choices)))])
        for order in orders:
            prompts = scoring.prompts(question, questions.subject, order)
            found.append(Asked(place, prompts, len(order), order.index(question.answer)))
    return found


def known(
    splice: Splice, scoring: Scoring, questions: QuestionSet, batch_rows: int, progress: Progress = SILENT
) -> list[int]:
    """Places of the questions that the untouched model answers rightly, whatever the order of their choices."""
    asked = ask(scoring, questions, range(len(questions.questions)), every_order=True)
    progress.start(f"what the model knows of {questions.name}", len(asked), "questions")
    right = accuracies(splice, scoring, asked, untouched, batch_rows, progress)[""]
    wrong = {each.question for each, is_right in zip(asked, right, strict=True) if not is_right}
    return [place for place in range(len(questions.questions)) if place not in wrong]


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
    return {name: Estimate.of_rows(torch.cat(spent), torch.cat(counts)) for name, spent in sums.items()}


def _cross_entropy(splice: Splice, hidden: Float[Tensor, "n d"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """That of each position, a block of positions at a time."""
    positions = max(1, LOGIT_BYTES // (4 * splice.logits(hidden[:1]).shape[-1]))
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
