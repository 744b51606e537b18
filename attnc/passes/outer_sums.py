"""Sums over outer axes, rows and keys, taken apart.

    sum_i where(c, sum_h x_h, 0)      the sum over i and h of x_h, where c

A sum of a derivative has choices of zero and further sums around what is summed. The kernels want
one sum: what is bound, all conditions, one body.

does      opens choices of zero, and sums that may as well be made outside
needs     the roles of axes
does not  choose who makes the sum
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    TRUE,
    Expr,
    is_number,
    position,
    postorder,
    substitute,
)
from attnc.expressions.tree import fold as sum_over
from attnc.graph import conjuncts
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.key_heads import coarse_place
from attnc.passes.roles import Roles
from attnc.passes.simplify import make


@dataclass(frozen=True)
class Sum:
    """sum of `body` over `bound` where all of `conditions` hold."""

    bound: tuple[Index, ...]
    conditions: tuple[Expr, ...]
    body: Expr

    @property
    def exprs(self) -> tuple[Expr, ...]:
        return (*self.conditions, self.body)

    @property
    def free(self) -> frozenset[Index]:
        every: frozenset[Index] = frozenset().union(*(expr.free for expr in self.exprs))
        return every - set(self.bound)


def taken_apart(fold: Expr, dummies: frozenset[Index], roles: Roles) -> Sum:
    """A sum with what stands around its body as conditions: choices of zero; sums inside over outer
    axes or rows that the rest does not have; sums that a condition ties to an index of the output
    (`d' + half == d`)."""
    bound, conditions = list(fold.bound), list(conjuncts(fold.args[0]))
    body = fold.args[1]
    while True:
        factors = factors_of(_merged_sums(body, roles))
        above = [_of_groups(factor, bound, roles) for factor in factors.above]
        place = next(
            (n for n, f in enumerate(above) if _opens(f, above, bound, dummies, roles)), None
        )
        if place is None:
            return _fine(Sum(tuple(bound), tuple(dict.fromkeys(conditions)), body), roles)
        inner = above[place]
        if inner.op == "where":
            yes = is_number(inner.args[2], 0)
            test = inner.args[0] if yes else make("not", inner.args[0])
            conditions.extend(conjuncts(test))
            above[place] = inner.args[1] if yes else inner.args[2]
        else:
            bound.extend(inner.bound)
            conditions.extend(conjuncts(inner.args[0]))
            above[place] = inner.args[1]
        body = Factors(tuple(above), factors.below, factors.negative).expr


def _fine(whole: Sum, roles: Roles) -> Sum:
    """The sum without key heads that it binds and ties to query heads."""
    for condition in whole.conditions:
        found = coarse_place(condition, roles)
        if found is None or found[1] not in whole.bound:
            continue
        place, coarse = found
        rest = (c for c in whole.conditions if c is not condition)
        slim = Sum(
            tuple(i for i in whole.bound if i != coarse),
            tuple(substitute(c, {coarse: place}) for c in rest),
            substitute(whole.body, {coarse: place}),
        )
        return _fine(slim, roles)
    return whole


def _opens(
    factor: Expr, above: list[Expr], bound: list[Index], dummies: frozenset[Index], roles: Roles
) -> bool:
    """A choice of zero, or a sum that may as well be made outside."""
    if factor.op == "where":
        return is_number(factor.args[1], 0) or is_number(factor.args[2], 0)
    if factor.op != "fold" or factor.monoid != "sum" or factor.kind != "real":
        return False
    if any(_pinned(part, dummies) for part in conjuncts(factor.args[0])):
        return True
    opened = (_is_outer_sum, hides_outer_sum, _sums_groups)
    if not any(rule(factor, roles) for rule in opened):
        return False
    others = {i.axis for f in above for i in f.free} | {i.axis for i in bound}
    return not any(index.axis in others for index in factor.bound)


def _merged_sums(body: Expr, roles: Roles) -> Expr:
    """sum_b x - sum_b y as one sum, where a body has such a difference as a factor."""
    factors = factors_of(body)
    above = tuple(_merged(factor, roles) for factor in factors.above)
    return body if above == factors.above else replace(factors, above=above).expr


def _merged(factor: Expr, roles: Roles) -> Expr:
    addends = addends_of(factor)
    if len(addends) < 2:
        return factor
    parts = []
    for addend, minus in addends:
        own = factors_of(addend)
        own = replace(own, above=tuple(_swapped(f, roles) for f in own.above))
        folds = [f for f in own.above if _is_outer_sum(f, roles)]
        if len(folds) != 1:
            return factor
        rest = replace(own, above=tuple(f for f in own.above if f is not folds[0]))
        parts.append((folds[0], rest, minus))
    first = parts[0][0]
    axes = [index.axis for index in first.bound]
    terms = []
    for own_fold, rest, minus in parts:
        if [index.axis for index in own_fold.bound] != axes:
            return factor
        moves = {o: position(n) for o, n in zip(own_fold.bound, first.bound, strict=True)}
        if substitute(own_fold.args[0], moves) != first.args[0]:
            return factor
        whole = (rest * factors_of(substitute(own_fold.args[1], moves))).expr
        terms.append(make("neg", whole) if minus else whole)
    return sum_over("sum", first.bound, total(terms), first.args[0])


def _swapped(factor: Expr, roles: Roles) -> Expr:
    """sum_e (sum_r x_re) y_e as sum_r (sum_e x_re y_e): e a width, r heads."""
    if not _is_width_sum(factor, roles):
        return factor
    inner = factors_of(factor.args[1])
    folds = [f for f in inner.above if _is_outer_sum(f, roles)]
    if len(folds) != 1 or folds[0].args[0].free & set(factor.bound):
        return factor
    others = tuple(f for f in inner.above if f is not folds[0])
    within = replace(inner, above=(folds[0].args[1], *others))
    product = sum_over("sum", factor.bound, within.expr)
    return sum_over("sum", folds[0].bound, product, folds[0].args[0])


def _of_groups(factor: Expr, bound: list[Index], roles: Roles) -> Expr:
    """sum_d (sum_h x_hd) k_d, over the query heads of a key head that is bound, as sum_h of the
    products' sums, also where it has several addends; any other factor as it is."""
    swapped = _swapped(factor, roles)
    if swapped is factor:
        swapped = _merged(_along_width(factor, roles), roles)
    if swapped.op != "fold":
        return factor
    tied = (coarse_place(part, roles) for part in conjuncts(swapped.args[0]))
    return swapped if any(one is not None and one[1] in bound for one in tied) else factor


def _along_width(factor: Expr, roles: Roles) -> Expr:
    """sum_d (x + y) as sum_d x + sum_d y, d a width."""
    if not _is_width_sum(factor, roles):
        return factor
    parts = []
    for addend, minus in addends_of(factor.args[1]):
        part = sum_over("sum", factor.bound, addend)
        parts.append(make("neg", part) if minus else part)
    return total(parts)


def _is_width_sum(factor: Expr, roles: Roles) -> bool:
    """Whether it is a sum of whole widths."""
    if factor.op != "fold" or factor.monoid != "sum" or factor.args[0] != TRUE:
        return False
    return all(roles.of(index.axis) == "width" for index in factor.bound)


def hides_outer_sum(factor: Expr, roles: Roles) -> bool:
    """Whether a sum along widths has sums over heads inside which belong to the whole: of pairs,
    or of rows with sums over their keys, whose powers go with those of the pairs beside them."""
    if factor.op != "fold" or any(roles.of(index.axis) != "width" for index in factor.bound):
        return False
    return any(_sums_heads(node, roles) for node in postorder(*factor.args))


def _sums_groups(factor: Expr, roles: Roles) -> bool:
    """Whether a sum over key heads is of a sum over the query heads of each: one over all heads."""
    inner = factor.args[1]
    if inner.op != "fold" or factor.args[0] != TRUE:
        return False
    places = (coarse_place(part, roles) for part in conjuncts(inner.args[0]))
    return any(place is not None and place[1] in factor.bound for place in places)


def _sums_heads(node: Expr, roles: Roles) -> bool:
    if node.op != "fold" or not all(roles.of(index.axis) == "grid" for index in node.bound):
        return False
    return roles.folds_keys(node) or {"row", "key"} <= {roles.of(i.axis) for i in node.free}


def _is_outer_sum(factor: Expr, roles: Roles) -> bool:
    if factor.op != "fold" or factor.monoid != "sum" or factor.kind != "real":
        return False
    return all(roles.of(index.axis) in ("grid", "row") for index in factor.bound)


def _pinned(part: Expr, dummies: frozenset[Index]) -> bool:
    return part.op == "eq" and any(a.op == "index" and a.attr in dummies for a in part.args)
