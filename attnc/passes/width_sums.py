"""Sums over a width of sums over keys, with the sums exchanged.

    sum_e g_ie (sum_j w_ij v_je)          sum_j w_ij (sum_e g_ie v_je)
    sum_e g_ie (a_ie + b_ie)              a sum for each, where both are sums over keys

does      takes such a sum apart
needs     simplified expressions
does not  choose which are exchanged
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnc.expressions.canonical import canonical
from attnc.expressions.tree import Expr, fold
from attnc.passes.factors import Factors, addends_of, factors_of
from attnc.passes.roles import Roles


def by_source(node: Expr, roles: Roles) -> list[Expr]:
    """sum_e g_e (a_e + b_e), a and b sums over keys of two sources, as a sum for each."""
    factors = factors_of(node.args[1])
    for place, factor in enumerate(factors.above):
        parts = addends_of(factor)
        if len(parts) < 2 or not all(roles.folds_keys(part) for part, _ in parts):
            continue
        found = []
        for part, minus in parts:
            above = (*factors.above[:place], part, *factors.above[place + 1 :])
            body = Factors(above, factors.below, factors.negative != minus).expr
            found.append(canonical(fold("sum", node.bound, body, node.args[0])))
        return found
    return [node]


def exchanged(
    node: Expr, roles: Roles, is_later: Callable[[Expr], bool]
) -> tuple[Factors, Expr | None]:
    """rest and a sum over keys of sums over widths, whose product the node is; None for the sum
    where there is none of what is known when the forward runs."""
    bound = frozenset(node.bound)

    def along(factor: Expr) -> bool:
        return bool(factor.free & bound)

    wide, rest = factors_of(node.args[1]).split(along)
    keyed = [f for f in wide.above if f.op == "fold" and roles.folds_keys(f)]
    others = tuple(f for f in wide.above if f not in keyed)
    if len(keyed) != 1 or keyed[0].monoid != "sum" or wide.below or is_later(keyed[0]):
        return rest, None
    if any(roles.folds_keys(f) for f in others) or along(keyed[0].args[0]):
        return rest, None
    own, weight = factors_of(keyed[0].args[1]).split(along)
    if own.below:
        return rest, None
    product = fold("sum", node.bound, (Factors(others) * own).expr)
    body = (weight * Factors((product,))).expr
    whole = canonical(fold("sum", keyed[0].bound, body, keyed[0].args[0]))
    return replace(rest, negative=rest.negative != wide.negative), whole
