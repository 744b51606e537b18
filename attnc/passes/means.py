"""Means over keys, taken from a number near them.

    sum_j w_j x_j  ->  c + sum_j w_j (x_j - c)                where sum_j w_j = 1
                       c - c r / D + sum_j w_j (x_j - c)      where w_j = f_j / D, D = r + sum_j f_j

Where one key has nearly all of a row's weight, a gradient is the difference of its term from the
mean. Made of terms less c the mean is rounded once, not as each of its terms and their weights.

does      finds the weights in sums that are divided by the sum of all their weights, and maybe
          more: a sink, 1
needs     canonical sums
does not  choose c
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attnc.expressions.tree import Expr, position, postorder, substitute
from attnc.passes.factors import ONE, Factors, addends_of, factors_of, total
from attnc.passes.simplify import make


@dataclass(frozen=True)
class Mean:
    """Sums of w_j x_j / D as c and `sums`, which have x_j - c in the place of x_j; `rest`: r / D,
    the share that is no key's, None where there is none."""

    sums: tuple[Expr, ...]
    rest: Expr | None


def less(sums: Sequence[Expr], near: Expr = ONE) -> Mean | None:
    """The sums with `near` taken from each term, None where no weights are found whose sum is 1
    but for what is no key's."""
    for divisor in factors_of(sums[0].args[1]).below:
        parts = addends_of(divisor)
        weights = [part for part, minus in parts if part.op == "fold" and not minus]
        made: list[Expr] = []
        for one in sums:
            found = ((part, _less(one, divisor, part, near)) for part in weights)
            part, whole = next((pair for pair in found if pair[1] is not None), (None, None))
            if part is not None and whole is not None:
                weights.remove(part)
                made.append(whole)
        others = [
            make("neg", part) if minus else part
            for part, minus in parts
            if minus or part.op != "fold"
        ]
        if weights or len(made) < len(sums) or any(node.bound for node in postorder(*others)):
            continue
        rest = make("div", total(others), divisor) if others else None
        return Mean(tuple(made), rest)
    return None


def _less(one: Expr, divisor: Expr, weights: Expr, near: Expr) -> Expr | None:
    """sum_j w_j x_j / divisor as sum_j w_j (x_j - near) / divisor, where `weights` is sum_j w_j."""
    axes = [[index.axis for index in node.bound] for node in (one, weights)]
    if weights.monoid != "sum" or axes[0] != axes[1]:
        return None
    moves = {old: position(new) for old, new in zip(weights.bound, one.bound, strict=True)}
    condition, weight = (substitute(arg, moves) for arg in weights.args)
    whole, own = factors_of(one.args[1]), factors_of(weight)
    above, below = Counter(whole.above), Counter(whole.below)
    weighed, divided = Counter(own.above), Counter((*own.below, divisor))
    if condition != one.args[0] or not (weighed <= above and divided <= below):
        return None
    if whole.negative or own.negative:
        return None
    terms = Factors(tuple((above - weighed).elements()), tuple((below - divided).elements()))
    shifted = make("sub", terms.expr, near)
    return one.with_args((condition, (Factors((shifted,)) * own * Factors((), (divisor,))).expr))
