"""Gradients over rows and keys both: a number stored for each pair, and vectors made of it."""

from __future__ import annotations

from functools import partial

from attnc.expressions.tree import Expr, fold, number, number_of
from attnc.graph import conjuncts
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.outer_sums import Sum, taken_apart
from attnc.passes.pair_sums import PairSums
from attnc.passes.refusals import refuse
from attnc.passes.simplify import all_of, make


def dense_gradient(sums: PairSums, whole: Expr) -> Expr:
    """A gradient over rows and keys both."""
    if whole.op == "number":  # what is compared alone moves nothing
        return whole
    bottom = _where_else(whole)
    if bottom is not None:
        condition, inner, otherwise = bottom
        return _number(sums, Sum((), conjuncts(condition), inner), otherwise)
    parts = []
    for addend, minus in addends_of(whole):
        whole_sum = fold("sum", (), addend) if addend.op != "fold" else addend
        found = _pair(sums, taken_apart(whole_sum, sums.dummies, sums.roles))
        parts.append(make("neg", found) if minus else found)
    return total(parts)


def _pair(sums: PairSums, whole: Sum) -> Expr:
    pinned = sums.pinned(whole)
    inside = tuple(c for c in whole.conditions if c not in pinned)
    bound = {sums.roles.of(index.axis) for index in whole.bound}
    if bound - {"grid"} or pinned:
        raise refuse("bias_tensor: a dense bias that is not read at its own row and key")
    own, rest = factors_of(whole.body).split(lambda f: bool(sums.roles.widths((f,))))
    if any(map(sums.roles.folds_outer, own.above)):
        return total(map(partial(_pair, sums), _distributed(sums, whole)))
    if sums.roles.widths(inside) or any(map(sums.roles.folds_outer, own.below)):
        raise refuse("pair_embedding: the derivative of a vector for each pair")
    found = _number(sums, Sum((), inside, rest.expr))
    if own != Factors():  # a hidden pair's is 0, whatever its vectors are
        none = make("eq", found, number(0.0))
        found = make("where", none, number(0.0), make("mul", own.expr, found))
    return fold("sum", whole.bound, found) if whole.bound else found


def _distributed(sums: PairSums, whole: Sum) -> list[Sum]:
    """x (a + b_e) as x a + x b_e, where a has sums over pairs and b_e is along a width."""
    factors = factors_of(whole.body)
    for place, factor in enumerate(factors.above):
        parts = addends_of(factor)
        vector = sums.roles.widths((factor,)) and sums.roles.folds_outer(factor)
        if not vector or len(parts) < 2:
            continue
        above = (factors.above[:place], factors.above[place + 1 :])
        found = []
        for part, minus in parts:
            turned = factors.negative != minus
            term = Factors((*above[0], part, *above[1]), factors.below, turned)
            again = fold("sum", whole.bound, term.expr, all_of(whole.conditions))
            found.append(taken_apart(again, sums.dummies, sums.roles))
        return found
    raise refuse("pair_embedding: the derivative of a vector for each pair")


def _number(sums: PairSums, inner: Sum, otherwise: float = 0.0) -> Expr:
    """A number for each pair, stored."""
    moves = sums.canonical(inner.free)
    key = next(i for i in moves if sums.roles.of(i.axis) == "key")
    frame = sums.roles.frame
    if set((*frame.grid, frame.held)) - set(moves.values()):
        raise refuse("map_stage: a derivative that is the same for all rows")
    over = (*frame.grid, frame.held, moves[key])
    return sums.kept("pair", inner, moves, key, over, otherwise=otherwise)


def _where_else(whole: Expr) -> tuple[Expr, Expr, float] | None:
    """c, x and a number n that is not 0, of where(c, x, n) for each pair, no vector."""
    if whole.op != "where" or whole.kind != "real" or whole.args[2].op != "number":
        return None
    condition, inner, rest = whole.args
    found = number_of(rest)
    return (condition, inner, found) if found != 0 else None
