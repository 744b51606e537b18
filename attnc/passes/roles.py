"""What the indices of a derivative stand for: outer axes, rows, keys, widths.

A derivative names its indices after axes and heights. The kernels of a derivative share one set of
names: those of the forward's frame. `Roles` knows them, and `Sum` is a fold taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.places import ends_of, first_of
from attnc.expressions.signs import is_positive
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    is_number,
    length,
    number,
    position,
    postorder,
    rewrite,
    start,
    substitute,
)
from attnc.expressions.tree import fold as sum_over
from attnc.graph import conjuncts
from attnc.passes.factors import Factors, addends_of, factors_of, total
from attnc.passes.frame import Frame
from attnc.passes.simplify import make, simplify_node

Role = Literal["grid", "row", "key", "coarse", "width"]


@dataclass(frozen=True)
class Roles:
    """The roles of axes in the operator whose forward has this frame (rows held).

    group     the name of an axis that counts a key head's query heads
    """

    frame: Frame
    group: str
    _over: dict[bytes, frozenset[Axis]] = field(default_factory=dict, compare=False, repr=False)

    def of(self, axis: Axis) -> Role:
        if any(index.axis is axis for index in self.frame.grid):
            return "grid"
        if axis is self.frame.held.axis:
            return "row"
        if self.frame.walker(axis) is not None:
            return "key"
        of = axis.of
        if of is not None and any(index.axis is of for index in self.frame.grid):
            return "coarse"
        return "width"

    def own(self, axis: Axis) -> Index | None:
        """The one index that kernels have on an axis of rows, keys or the grid."""
        outer = (*self.frame.grid, self.frame.held, *self.frame.walked)
        return next((index for index in outer if index.axis is axis), None)

    def is_outer(self, index: Index) -> bool:
        """Whether the index is one of rows, keys or the grid."""
        return self.of(index.axis) in ("grid", "row", "key")

    def folds_keys(self, expr: Expr) -> bool:
        """Whether the expression has a fold over keys."""
        return any(self.of(axis) == "key" for axis in self.folded(expr))

    def folds_outer(self, expr: Expr) -> bool:
        """Whether the expression has a fold over rows, keys or the grid."""
        return any(self.of(axis) != "width" for axis in self.folded(expr))

    def folded(self, expr: Expr) -> frozenset[Axis]:
        """The axes that folds in the expression are over."""
        for node in postorder(expr, done=self._over):
            own = frozenset(index.axis for index in node.bound)
            self._over[node.digest] = own.union(*(self._over[arg.digest] for arg in node.args))
        return self._over[expr.digest]

    def sums_outer(self, node: Expr) -> bool:
        """Whether the node is a sum over outer axes."""
        sums = node.op == "fold" and node.monoid == "sum" and node.kind == "real"
        return sums and all(self.of(index.axis) in ("grid", "coarse") for index in node.bound)

    def is_row(self, expr: Expr) -> bool:
        """Whether the expression is over the grid, the row and widths alone, by its names."""
        keys = {"key", "coarse"}
        return not any(self.of(index.axis) in keys for index in expr.free)

    def widths(self, exprs: Iterable[Expr]) -> tuple[Index, ...]:
        """The free widths, in order of their names."""
        free = frozenset().union(*(expr.free for expr in exprs))
        found = (index for index in free if self.of(index.axis) == "width")
        return tuple(sorted(found, key=lambda index: (index.name, index.number)))


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
        above = list(factors.above)
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
    if factor.op != "fold" or factor.monoid != "sum" or factor.args[0] != TRUE:
        return factor
    if any(roles.of(index.axis) != "width" for index in factor.bound):
        return factor
    inner = factors_of(factor.args[1])
    folds = [f for f in inner.above if _is_outer_sum(f, roles)]
    if len(folds) != 1 or folds[0].args[0].free & set(factor.bound):
        return factor
    others = tuple(f for f in inner.above if f is not folds[0])
    within = replace(inner, above=(folds[0].args[1], *others))
    product = sum_over("sum", factor.bound, within.expr)
    return sum_over("sum", folds[0].bound, product, folds[0].args[0])


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


def solved(fold: Expr) -> Expr:
    """A sum over x whose condition says x + c == y, at the one x that this is; one that says
    x // n == y or x % n == y, over the run of places where this holds."""
    if fold.op != "fold" or fold.monoid != "sum":
        return fold
    parts = conjuncts(fold.args[0])
    for part in parts:
        for index in fold.bound:
            side, other = _sides(part, index)
            if side is None or other is None:
                continue
            rest = [p for p in parts if p is not part]
            if side.op == "index":
                return _at(fold, index, other, rest)
            if _is_run(side, index):
                return _along(fold, index, side, other, rest)
    return fold


def _is_run(side: Expr, index: Index) -> bool:
    """Whether it is x // n or x % n of an x that begins at 0."""
    if side.op not in ("floordiv", "mod") or side.args[0] != position(index):
        return False
    size = side.args[1]
    return index not in size.free and is_positive(size) and is_number(first_of(index.axis), 0)


def _along(fold: Expr, index: Index, side: Expr, other: Expr, conditions: list[Expr]) -> Expr:
    """The sum over the places of one quotient, or of one remainder."""
    size = side.args[1]
    whole = ends_of(index.axis)[1]
    quotients = make("floordiv", make("sub", make("add", whole, size), number(1)), size)
    taken = {i.axis.name for node in postorder(fold) for i in (*node.free, *node.bound)}
    name = fresh_name(f"run_of_{index.axis.name}", taken)
    longest = make("min", size, whole) if side.op == "floordiv" else quotients
    run = Axis(name, "range", number(0), longest)
    step = Index(name, run, index.number)
    if side.op == "floordiv":
        at = make("add", make("mul", other, size), position(step))
        inside = (make("le", number(0), other), make("lt", other, quotients))
    else:
        at = make("add", make("mul", position(step), size), other)
        inside = (make("le", number(0), other), make("lt", other, size))
    moves = {index: at}
    tests = [*inside, make("lt", at, whole), *(substitute(c, moves) for c in conditions)]
    bound = tuple(step if one == index else one for one in fold.bound)
    return solved(sum_over("sum", bound, substitute(fold.args[1], moves), _every(tests)))


def says_place(condition: Expr, index: Index) -> bool:
    """Whether a condition says which place the index is: `e == x`, e of something else."""
    pairs = (condition.args, condition.args[::-1]) if condition.op == "eq" else ()
    return any(a == position(index) and index not in b.free for a, b in pairs)


def settled(part: Expr, index: Index) -> Expr | None:
    """The one place at which a condition lets an index be: x of `i - u == x` lets i be at x + u."""
    side, other = _sides(part, index)
    return other if side is not None and side.op == "index" else None


def _sides(part: Expr, index: Index) -> tuple[Expr, Expr] | tuple[None, None]:
    """x, or what is not taken apart, and what it equals where the condition holds."""
    if part.op != "eq":
        return None, None
    for side, other in (part.args, part.args[::-1]):
        if index not in side.free or index in other.free:
            continue
        while side.op in ("add", "sub"):
            left, right = side.args
            if index in left.free and index in right.free:
                return None, None
            if index in left.free:
                opposite = "sub" if side.op == "add" else "add"
                other, side = make(opposite, other, right), left
            elif side.op == "add":
                other, side = make("sub", other, left), right
            else:
                other, side = make("sub", left, other), right
        if side.op != "index" or side.attr == index:
            return side, other
    return None, None


def _at(fold: Expr, index: Index, at: Expr, conditions: list[Expr]) -> Expr:
    low = start(index.axis)
    inside = make("le", low, at)
    inside = make("and", inside, make("lt", at, make("add", low, length(index.axis))))
    moves = {index: at}
    whole = inside
    for condition in conditions:
        whole = make("and", whole, substitute(condition, moves))
    body = substitute(fold.args[1], moves)
    rest = tuple(other for other in fold.bound if other != index)
    if not rest:
        return make("where", whole, body, number(0.0))
    return solved(sum_over("sum", rest, body, whole))


def uncoarsened(expr: Expr, roles: Roles) -> Expr:
    """The expression with `sum(hk if h // group == hk: x[hk])` as x[h // group]."""

    def change(node: Expr) -> Expr:
        if node.op != "fold" or node.monoid != "sum":
            return simplify_node(node)
        for part in conjuncts(node.args[0]):
            found = coarse_place(part, roles)
            if found is None or found[1] not in node.bound or found[1] in found[0].free:
                continue
            place, coarse = found
            rest = [p for p in conjuncts(node.args[0]) if p is not part]
            whole = _every(rest)
            moves = {coarse: place}
            bound = tuple(i for i in node.bound if i != coarse)
            test, body = substitute(whole, moves), substitute(node.args[1], moves)
            if bound:
                return sum_over("sum", bound, body, test)
            return make("where", test, body, number(0.0))
        return simplify_node(node)

    return rewrite(expr, change)


def _every(conditions: Iterable[Expr]) -> Expr:
    whole = TRUE
    for condition in conditions:
        whole = make("and", whole, condition)
    return whole


def coarse_place(part: Expr, roles: Roles) -> tuple[Expr, Index] | None:
    """h // (len(h) // len(hk)) and hk of the condition that ties a query head to its key head."""
    if part.op != "eq":
        return None
    for place, other in (part.args, part.args[::-1]):
        coarse = other.attr
        if other.op != "index" or not isinstance(coarse, Index):
            continue
        if roles.of(coarse.axis) != "coarse" or place.op != "floordiv":
            continue
        fine, size = place.args
        whole = fine.op == "index" and size == group_size(coarse.axis)
        if whole and isinstance(fine.attr, Index) and fine.attr.axis is coarse.axis.of:
            return place, coarse
    return None


def group_size(coarse: Axis) -> Expr:
    """How many fine indices a coarse one has."""
    assert coarse.of is not None
    return call("floordiv", length(coarse.of), length(coarse))
