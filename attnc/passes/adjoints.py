"""Adjoints: guarded products, their sums with common factors taken out, and sums over indices.

does      adds contributions that meet under one domain, takes common factors out, closes folds
          over indices that a node does not have
needs     open indices (contexts.py)
does not  multiply where a guard fails: what is not asked for may be infinite
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from attnc.expressions.index import Axis, Index
from attnc.expressions.places import same_places
from attnc.expressions.signs import is_positive, never_negative
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    length,
    number,
    postorder,
    start,
    substitute_all,
)
from attnc.passes.contexts import Opened, close
from attnc.passes.factors import ONE, ZERO, Factors, factors_of, multiply
from attnc.passes.simplify import all_of, make


@dataclass(frozen=True, slots=True)
class Adjoint:
    """`product` where the domain and the guards hold, 0 elsewhere.

    over      the indices that it is to be summed over, or that stay
    domain    conditions of folds around: which points there are
    guards    truths that choices ask: where the node is asked for
    met       folds that the product has left, in alternatives: where all of one are over nothing
              the product is 0, which no infinite slope may be multiplied with
    """

    over: frozenset[Index]
    domain: tuple[Expr, ...]
    guards: tuple[Expr, ...]
    product: Factors
    met: tuple[tuple[Opened, ...], ...] = ()

    @property
    def place(self) -> tuple[frozenset[Index], frozenset[Expr]]:
        """What two adjoints must share to be added as they are."""
        return self.over, frozenset(self.domain)

    def asking(self, conditions: Iterable[Expr]) -> Adjoint:
        """The adjoint where further conditions can be asked: if they read at computed places, only
        after the guards, for these may say that the places are inside."""
        if not self.guards or not any(map(_computed, conditions)):
            return self
        domain = tuple(dict.fromkeys((*self.domain, *self.guards)))
        return replace(self, domain=domain, guards=())

    def expr(self) -> Expr:
        """The adjoint as an expression: nothing is summed any more."""
        return _chosen((*self.domain, *self.guards), self.product.expr)

    def renamed(self, moves: dict[Index, Index], exchange: dict[Index, Expr]) -> Adjoint:
        """With indices exchanged, in `over` as `moves` says."""

        above, below = self.product.above, self.product.below
        exprs = iter(substitute_all((*self.domain, *self.guards, *above, *below), exchange))
        domain, guards, above, below = (
            tuple(next(exprs) for _ in each) for each in (self.domain, self.guards, above, below)
        )
        over = frozenset(moves.get(index, index) for index in self.over)
        return Adjoint(over, domain, guards, Factors(above, below, self.product.negative))


def _computed(condition: Expr) -> bool:
    """Whether a condition reads an array at a place that is no index (nor a head's key head)."""
    return any(
        place.op != "index" and axis.form != "coarse"
        for node in postorder(condition)
        if node.op == "read"
        for place, axis in zip(node.args, node.array.axes, strict=True)
    )


def times(product: Factors, factor: Factors) -> Factors:
    """The product of two, with one number at most."""
    whole = product * factor
    numbers, rest = whole.split(lambda f: f.op == "number")
    if len(numbers.above) + len(numbers.below) < 2:
        return whole
    value = multiply(numbers.above)
    below = multiply(numbers.below)
    value = value if below == ONE else make("div", value, below)
    if value.op != "number":
        return whole
    above = rest.above if value == ONE else (value, *rest.above)
    return Factors(above, rest.below, whole.negative)


def _chosen(conditions: Sequence[Expr], expr: Expr) -> Expr:
    return make("where", all_of(conditions), expr, ZERO)


# --- sums -----------------------------------------------------------------------------------------


def merged(adjoints: Iterable[Adjoint]) -> list[Adjoint]:
    """Adjoints of one node, those at one place added; in order of the first."""
    found: dict[object, Adjoint] = {}
    for adjoint in adjoints:
        known = found.get(adjoint.place)
        found[adjoint.place] = adjoint if known is None else _added(known, adjoint)
    return list(found.values())


def _added(a: Adjoint, b: Adjoint) -> Adjoint:
    both = frozenset(a.guards) & frozenset(b.guards)
    shared = tuple(guard for guard in a.guards if guard in both)
    only_a, only_b = (all_of(guard for guard in one.guards if guard not in both) for one in (a, b))
    common, first, second = _common(a.product, b.product)
    left, right = first.expr, second.expr
    guards = shared
    if only_a == only_b == TRUE:
        whole = _plus(left, right)
    elif TRUE in (only_a, only_b):
        whole = _plus(make("where", only_a, left, ZERO), make("where", only_b, right, ZERO))
    elif only_a == make("not", only_b) or only_b == make("not", only_a):
        whole = make("where", only_a, left, right)
    else:
        whole = _plus(make("where", only_a, left, ZERO), make("where", only_b, right, ZERO))
        guards = (*shared, make("or", only_a, only_b))
    return Adjoint(a.over, a.domain, guards, times(common, _factors_of_sum(whole)), _met(a, b))


def _met(a: Adjoint, b: Adjoint) -> tuple[tuple[Opened, ...], ...]:
    """Where a sum is 0 because both are."""
    shared = tuple(one for one in a.met if one in b.met)
    only_a, only_b = ([one for one in each.met if one not in shared] for each in (a, b))
    if not only_a or not only_b:
        return shared
    return (*shared, tuple(dict.fromkeys((*only_a[-1], *only_b[-1]))))


def _plus(left: Expr, right: Expr) -> Expr:
    return make("add", left, right)


def _factors_of_sum(expr: Expr) -> Factors:
    """A sum as one factor; equal addends as twice the one."""
    if expr.op == "add" and expr.args[0] == expr.args[1]:
        return Factors((number(2.0),)) * factors_of(expr.args[0])
    if expr.op == "neg":
        return Factors((expr.args[0],), (), True)
    return Factors() if expr == ONE else Factors((expr,))


def _common(a: Factors, b: Factors) -> tuple[Factors, Factors, Factors]:
    """The factors that both products have, and what is left of each."""
    above, above_a, above_b = _shared(a.above, b.above)
    below, below_a, below_b = _shared(a.below, b.below)
    both = a.negative and b.negative
    return (
        Factors(above, below, both),
        Factors(above_a, below_a, a.negative and not both),
        Factors(above_b, below_b, b.negative and not both),
    )


def _shared(
    a: tuple[Expr, ...], b: tuple[Expr, ...]
) -> tuple[tuple[Expr, ...], tuple[Expr, ...], tuple[Expr, ...]]:
    rest = list(b)
    both: list[Expr] = []
    only: list[Expr] = []
    for factor in a:
        if factor in rest:
            rest.remove(factor)
            both.append(factor)
        else:
            only.append(factor)
    return tuple(both), tuple(only), tuple(rest)


# --- closing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closer:
    """Sums adjoints over indices: over widths one by one, with the other factors outside; over
    rows, keys and outer axes in one fold, its indices in the order of `wide`.

    rows    the axes of rows, the held one last; `keys`: those of keys"""

    wide: tuple[Axis, ...]
    rows: tuple[Axis, ...] = ()
    keys: frozenset[Axis] = frozenset()

    def closed(self, adjoint: Adjoint, keep: frozenset[Index], whole: bool = False) -> Adjoint:
        """The adjoint over `keep` alone. `whole`: the last fold keeps all of its body."""
        if not whole:
            adjoint = self._settled(adjoint, keep)
        extra = adjoint.over - keep
        for index in sorted(extra, key=lambda i: (i.name, i.number)):
            if index.axis not in self.wide:
                adjoint = self._width(adjoint, index)
        rest = adjoint.over - keep
        if not rest:
            return adjoint
        order = sorted(rest, key=lambda i: (self.wide.index(i.axis), i.name))
        return self._fold(adjoint, tuple(order), whole)

    def _settled(self, adjoint: Adjoint, keep: frozenset[Index]) -> Adjoint:
        """The adjoint without indices that a row settles: sum_x (if e == x: f(x)) is f(e) where e
        is on the axis. What is given to a gradient is read where the gradient was sent to."""
        for condition in adjoint.domain:
            for place, other in _ties(condition):
                if other in keep or other not in adjoint.over or not self._settles(place, other):
                    continue
                rest = tuple(one for one in adjoint.domain if one is not condition)
                inside = _within(place, other.axis)
                slim = replace(adjoint, over=adjoint.over - {other}, domain=rest)
                moved = slim.renamed({}, {other: place})
                domain = tuple(dict.fromkeys((*moved.domain, *inside)))
                return self._settled(replace(moved, domain=domain), keep)
        return adjoint

    def _settles(self, place: Expr, other: Index) -> bool:
        """Whether the place of a token or of a table's entry is known to a row or another key, or a
        place along a width to another. (Outer axes are what loops go over, and keys that a mask
        counts from the row.)"""
        if other in place.free or other.axis.form == "coarse" or not (self.rows and self.wide):
            return False
        counted = other.axis in self.keys and place.op != "index"
        if counted or other.axis not in self.wide:
            return any(index.axis is other.axis for index in place.free)
        if other.axis in self.rows[:-1]:
            return False
        return any(index.axis is self.rows[-1] for index in place.free)

    def _width(self, adjoint: Adjoint, index: Index) -> Adjoint:
        """A width is never empty: unless a condition says so, every factor may leave."""
        inside = frozenset((index,))
        always = not any(index in condition.free for condition in adjoint.domain)
        inner, outer = _leaving(adjoint.product, inside, always)
        return self._over((index,), adjoint, inner, outer)

    def _fold(self, adjoint: Adjoint, bound: tuple[Index, ...], whole: bool) -> Adjoint:
        if whole:
            return self._over(bound, adjoint, adjoint.product, Factors())
        inner, outer = _leaving(adjoint.product, frozenset(bound), False)
        return self._over(bound, adjoint, inner, outer)

    def _over(
        self, bound: tuple[Index, ...], adjoint: Adjoint, inner: Factors, outer: Factors
    ) -> Adjoint:
        inside = frozenset(bound)
        conditions, domain = _parted(adjoint.domain, inside)
        asked, guards = _parted(adjoint.guards, inside)
        body = _chosen(asked, inner.expr)
        if not conditions and not body.free & inside and len(bound) == 1:
            count = call("to_real", length(bound[0].axis))
            outer = outer * Factors((count,)) * factors_of(body)
        else:
            outer = outer * Factors((close("sum", bound, conditions, body),))
        met = tuple(one for one in adjoint.met if not any(left.free & inside for left in one))
        if conditions or any(index.axis in self.wide for index in bound):
            met = (*met, (Opened(bound, conditions, ONE),))
        return Adjoint(adjoint.over - inside, domain, guards, outer, met)


def _ties(condition: Expr) -> Iterable[tuple[Expr, Index]]:
    """Places with the index that the condition says each is."""
    pairs = (condition.args, condition.args[::-1]) if condition.op == "eq" else ()
    return [
        (place, other.attr)
        for place, other in pairs
        if other.op == "index" and isinstance(other.attr, Index)
    ]


def _within(place: Expr, axis: Axis) -> tuple[Expr, ...]:
    """That a place is on an axis, if it is not that of one with the same positions."""
    if isinstance(place.attr, Index) and place.op == "index" and same_places(place.attr.axis, axis):
        return ()
    first = start(axis)
    return make("ge", place, first), make("lt", place, make("add", first, length(axis)))


def _leaving(product: Factors, bound: frozenset[Index], always: bool) -> tuple[Factors, Factors]:
    """What stays in a fold, and what leaves it: over nothing 0 * inf is not 0, so where a fold may
    be over nothing only what is finite leaves."""
    above = tuple(f for f in product.above if not f.free & bound and (always or finite(f)))
    below = tuple(f for f in product.below if not f.free & bound and (always or is_positive(f)))
    inner = Factors(
        tuple(f for f in product.above if f not in above),
        tuple(f for f in product.below if f not in below),
    )
    return inner, Factors(above, below, product.negative)


def _parted(
    conditions: Iterable[Expr], bound: frozenset[Index]
) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    every = tuple(conditions)
    return (
        tuple(c for c in every if c.free & bound),
        tuple(c for c in every if not c.free & bound),
    )


BOUNDED = ("sigmoid", "tanh", "erf", "atan")


def finite(expr: Expr) -> bool:
    """Whether the expression is finite wherever its leaves are; what is bounded is, whatever stands
    in it."""
    bounded = {n.digest for n in postorder(expr) if n.op in BOUNDED}
    inside = {b.digest for n in postorder(expr) if n.digest in bounded for b in postorder(*n.args)}
    for node in postorder(expr):
        if node.digest in inside:
            continue
        if node.op == "div" and not is_positive(node.args[1]):
            return False
        if node.op in ("log", "log2", "log1p") and not is_positive(node.args[0]):
            return False
        if node.op == "pow" and not never_negative(node.args[1]):
            return False
        if node.op == "fold" and node.monoid in ("max", "min"):
            return False
    return True
