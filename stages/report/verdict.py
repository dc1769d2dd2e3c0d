"""What the temporal part of a variant bought and what it cost, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stages.report.contrast import NO_TEMPORAL, Comparison, Contrast, Difference
from stages.report.matched import Matched
from stages.report.metric import FSM, LIFETIME, PROBES, QUALITY, SMOOTHNESS, TCS
from stages.report.numeral import give_or_take, listed, numeral, plus_or_minus, signed

OTHER_L0 = 0.05
"""By this share more or fewer active latents than the control has, and the two are not equally sparse."""
DEAD_SHARE = 0.05
"""By this share of all latents more dead than the control has, and it may be what TCS shows."""
NEGLIGIBLE = 0.0005
"""A change of a share, or an error, that one decimal of a percentage does not show."""


class Verdict(NamedTuple):
    """Of one temporal variant; each part is empty where there is nothing to say."""

    result: str
    """What it bought and cost."""
    others: str
    """What else changed."""
    caution: str
    """What may have made a gain otherwise."""


def verdict(comparison: Comparison) -> Verdict:
    """The verdict on one temporal variant."""
    main = comparison.main
    missing = "" if comparison.bought else no_control([comparison])
    if main is None:
        return Verdict(missing, "", "")
    lead = [missing, _bought(main, comparison), _permuted(comparison), _cost(main)]
    return Verdict(_text(lead), _others(main), _caution(main))


def no_control(comparisons: Sequence[Comparison]) -> str:
    """What is not known of variants, and how it would be."""
    several = len(comparisons) > 1
    if several:
        command = f"`pipeline train --variant NAME+{NO_TEMPORAL}` with the seeds, steps and store of NAME"
    else:
        seeds = "".join(f" --seed {seed}" for seed in comparisons[0].seeds)
        steps = f" --steps {comparisons[0].steps:.0f}" if math.isfinite(comparisons[0].steps) else ""
        command = f"`pipeline train --variant {comparisons[0].name}+{NO_TEMPORAL}{seeds}{steps}` on its store"
    return (
        f"What the temporal part{'s' if several else ''} of {listed([each.variant for each in comparisons])} bought is "
        f"not known: no control with the same seed, steps and store was evaluated. {command} and then "
        "`pipeline evaluate` of the folder that it names make it."
    )


def at_equal_sparsity(matched: Matched) -> str:
    """The result of one temporal variant against SAEs of single tokens."""
    at = f"its L0 of {numeral(matched.l0, 1)}"
    if not matched.contrasts:
        if matched.nearest is None:
            return f"No per-token SAE of its seed, steps and store was evaluated to compare {matched.variant} with."
        nearest = f"{matched.nearest.group} at {numeral(matched.nearest.number('l0'), 1)}"
        return f"For {matched.variant} there is no per-token SAE near {at}: the nearest is {nearest}."
    differences = [d for _, d in matched.differences]
    kinds = {
        "better in": [_measured(d) for d in differences if d.improves],
        "worse in": [_measured(d) for d in differences if d.clear and not d.improves],
        "apart, with no known error, in": [_measured(d) for d in differences if not d.known],
        "equal within error in": [_title(d) for d in differences if _nothing(d)],
    }
    clauses = [f"{kind} {listed(members)}" for kind, members in kinds.items() if members]
    names = listed(list(dict.fromkeys(each.control for each, _ in matched.differences)))
    one = "; one seed" if max((d.n for d in differences), default=0) == 1 else ""
    return f"Against per-token SAEs at {at} ({names}{one}), {matched.variant} is {'; '.join(clauses)}."


def _measured(d: Difference) -> str:
    return f"{_title(d)} ({_gain(d)})"


def _bought(main: Contrast, comparison: Comparison) -> str:
    """Scale by scale, sorted into bought, nothing and lost."""
    part = "temporal part" if comparison.bought else "token order in the training"
    seeds = f", seed by seed (n = {len(main.pairs)})" if len(main.pairs) > 1 else " (one seed)"
    known = [main.differences[metric.name] for metric in TCS if math.isfinite(main.differences[metric.name].mean)]
    if not known:
        return (
            f"What the {part} of {main.variant} bought over {main.control} was not measured: there is no TCS of both. "
            "`pipeline evaluate` measures it."
        )
    kinds = {
        "bought TCS": [d for d in known if d.improves],
        "lowered TCS": [d for d in known if d.clear and not d.improves],
        "bought nothing within error": [d for d in known if _nothing(d)],
        "changed TCS, with no known error,": [d for d in known if not d.known],
    }
    clauses = [f"{did} {_at(members)}" for did, members in kinds.items() if members]
    return f"Over {main.control}{seeds}, the {part} of {main.variant} {'; it '.join(clauses)}."


def _at(differences: Sequence[Difference], nulls: bool = True) -> str:
    """`at short (+0.031 ± 0.004; inputs permuted +0.002) and medium lags`."""
    scales = [f"{_scale(d)} ({_gain(d)}{_null(d) if nulls else ''})" for d in differences]
    return f"at {listed(scales)} lags"


def _permuted(comparison: Comparison) -> str:
    """Whether training in permuted order gains as much where the variant gains something."""
    if comparison.bought is None or comparison.order is None or comparison.permuted is None:
        return ""
    gained = [metric.name for metric in TCS if comparison.bought.differences[metric.name].improves]
    orders = [d for name in gained if (d := comparison.order.differences[name]).known]
    gains = comparison.permuted.differences
    less = [d for d in orders if d.improves]
    more = [d for d in orders if d.clear and not d.improves]
    as_much = [d for d in orders if _nothing(d) and gains[d.metric.name].improves]
    unclear = [d for d in orders if d not in (*less, *more, *as_much)]
    clauses = []
    if more:
        beyond = ", ".join(_gain(d) for d in more)
        clauses.append(f"gains more {_gains_at(more, gains)}: order takes from it ({beyond})")
    if as_much:
        clauses.append(f"gains as much, within error, {_gains_at(as_much, gains)}: it does not take order")
    if less:
        rest = ", ".join(_gain(d) for d in less)
        clauses.append(f"gains less {_gains_at(less, gains)}: order accounts for the rest ({rest})")
    if unclear:
        clauses.append(f"can be told from neither {_gains_at(unclear, gains)}: what order is worth there is open")
    return f"{comparison.order.control}, trained in permuted order, {'; it '.join(clauses)}." if clauses else ""


def _gains_at(orders: Sequence[Difference], gains: Mapping[str, Difference]) -> str:
    """What training in permuted order gains, where the variant gains something."""
    return _at([gains[d.metric.name] for d in orders], nulls=False)


def _gain(d: Difference) -> str:
    return give_or_take(d.mean, d.error, _digits(d))


def _null(d: Difference) -> str:
    return f"; inputs permuted {signed(d.null_mean, _digits(d))}" if math.isfinite(d.null_mean) else ""


def _digits(d: Difference) -> int:
    """As many as the error needs to be seen: 3 to 5."""
    return 5 if d.error < NEGLIGIBLE / 10 else 4 if d.error < NEGLIGIBLE else 3


def _cost(main: Contrast) -> str:
    """Explained variance and CE score in points of a percentage, and L0 of both."""
    known = [d for metric in QUALITY if math.isfinite((d := main.differences[metric.name]).mean)]
    same = [d for d in known if not d.known and abs(d.mean) < NEGLIGIBLE]
    nothing = [d for d in known if _nothing(d)]
    moved = [d for d in known if d not in same and d not in nothing]
    kinds = {
        "cost": [_points(d) for d in moved if d.mean < 0],
        "gained": [_points(d) for d in moved if d.mean > 0],
        "left unchanged within error:": [_points(d) for d in nothing],
        "did not move": [_title(d) for d in same],
    }
    clauses = [f"{did} {listed(parts)}" for did, parts in kinds.items() if parts]
    price = f"It {'; it '.join(clauses)}. " if clauses else ""
    l0 = main.differences["l0"]
    change = f" ({give_or_take(l0.mean, l0.error, l0.digits)})" if l0.known else ""
    return f"{price}L0 is {numeral(l0.value, 1)} against {numeral(l0.control, 1)}{change}."


def _points(d: Difference) -> str:
    digits = _digits(d) - 2
    change = signed(100 * d.mean, digits) if d.known and not d.clear else numeral(100 * abs(d.mean), digits)
    return f"{change}{plus_or_minus(100 * d.error, digits)} points of {_title(d)}"


def _others(main: Contrast) -> str:
    """What else it is meant to improve, and syntax beside it."""
    found = [main.differences[metric.name] for metric in (*FSM, SMOOTHNESS, LIFETIME, *PROBES)]
    parts = [f"{_title(d)} {_gain(d)}{_qualities(d)}" for d in found if math.isfinite(d.mean) and not _nothing(d)]
    within = [_title(d) for d in found if _nothing(d)]
    clauses = [listed(parts)] if parts else []
    clauses += [f"nothing within error in {listed(within)}"] if within else []
    return f"{main.variant} minus {main.control}: {'; '.join(clauses)}." if clauses else ""


def _nothing(d: Difference) -> bool:
    """Whether the error explains the difference."""
    return d.known and not d.clear


def _qualities(d: Difference) -> str:
    null = _null(d).removeprefix("; ")
    lower = "lower is smoother" if d.metric == SMOOTHNESS else ""
    found = ", ".join(part for part in (null, lower) if part)
    return f" ({found})" if found else ""


def _caution(main: Contrast) -> str:
    """What may have made a gain without the temporal part doing what it is for."""
    l0, dead = main.differences["l0"], main.differences["dead_latents"]
    gained = [d for metric in TCS if (d := main.differences[metric.name]).improves]
    smoother = main.differences[SMOOTHNESS.name].mean < 0
    in_null = [d for d in gained if d.mean - d.null_mean <= d.half_width]
    sentences = []
    if len(main.pairs) == 1:
        sentences.append("± is of the documents alone: another training may differ by more.")
    if abs(l0.mean) > OTHER_L0 * l0.control:
        sentences.append("The two are not equally sparse, which moves what was bought as well as what it cost.")
    denser = l0.mean > OTHER_L0 * l0.control or dead.mean > DEAD_SHARE * main.pairs[0][0].number("latents")
    if denser and (gained or smoother):
        sentences.append("More latents are active or more are dead, and that alone can improve TCS and smoothness.")
    if in_null:
        scales = listed([_scale(d) for d in in_null])
        sentences.append(
            f"At {scales} lags the difference is no larger, within its error, than with the inputs permuted: it may "
            "lie in what the tokens of a document share rather than in their order."
        )
    return " ".join(sentences)


def _scale(d: Difference) -> str:
    return d.metric.name.removeprefix("tcs_")


def _title(d: Difference) -> str:
    title = d.metric.title
    return title if title[:2].isupper() else title[0].lower() + title[1:]


def _text(sentences: Sequence[str]) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
