"""Recurrences whose rows combine: every entry of a state is affine in its own value alone, so that
what two stretches of rows do to it is what one such row does.

    S <- a * S + b             pairs (a, b) combine to (a2 * a1, a2 * b1 + b2)
    S <- max(a + S, b)         to (a2 + a1, max(a2 + b1, b2)): the same, * written +, + written max

does      solves the states one after another: what a state's update reads of those solved before it
          is known for every row, before it and after it, so that a running maximum comes first and
          the sums that are rescaled by it are affine then
needs     an algebra (of the two) for each state, and of a factor that it lies between 0 and 1:
          products of others may overflow where no state does
does not  solve what moves along an axis, or more than two states that see one another; of two, what
          no rotation does to them, and no matrix whose rows sum to 1 at most; make statements (see
          row_tiles)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from attnc.expressions.tree import (
    Array,
    Expr,
    is_number,
    number,
    position,
    postorder,
)
from attnc.graph import Recurrence
from attnc.passes.affine import NotAffine, Term, affine_terms
from attnc.passes.bounded import bound_of, is_share, is_turn
from attnc.passes.factors import ONE, ZERO
from attnc.passes.rows import STATES
from attnc.passes.simplify import make

Plus = Literal["sum", "max", "min"]


class NotCombined(Exception):
    """Why rows do not combine, in a sentence's end."""


@dataclass(frozen=True)
class Algebra:
    """A semiring: what is added up, and what a factor does. `nothing` and `one` are its units."""

    plus: Plus
    add: str
    times: str
    nothing: Expr
    one: Expr

    def after(self, factor: Expr, state: Expr, added: Expr) -> Expr:
        """factor (times) state (plus) added."""
        return make(self.add, make(self.times, factor, state), added)

    @property
    def combined(self) -> str:
        """What two pairs combine to, for `explain`."""
        if self.plus == "sum":
            return "(a2 * a1, a2 * b1 + b2)"
        return f"(a2 + a1, {self.plus}(a2 + b1, b2))"


ALGEBRAS: dict[Plus, Algebra] = {
    "sum": Algebra("sum", "add", "mul", ZERO, ONE),
    "max": Algebra("max", "max", "add", number(float("-inf")), ZERO),
    "min": Algebra("min", "min", "add", number(float("inf")), ZERO),
}


@dataclass(frozen=True)
class Solved:
    """One state: `factor` and `added` read no state but those solved before it. `later`: it does
    read such."""

    state: Array
    algebra: Algebra
    factor: Expr
    added: Expr

    def reads(self, names: Iterable[str]) -> bool:
        wanted = frozenset(names)
        nodes = postorder(self.factor, self.added)
        return any(is_state(node) and node.array.name in wanted for node in nodes)


@dataclass(frozen=True)
class SolvedPair:
    """Two states that see each other: x, y <- a * x + b * y + p, c * x + d * y + q."""

    states: tuple[Array, Array]
    factors: tuple[Expr, Expr, Expr, Expr]
    added: tuple[Expr, Expr]


def solved(recurrence: Recurrence) -> tuple[Solved | SolvedPair, ...]:
    """The states in the order in which they can be scanned. Raises NotCombined."""
    waiting = dict(zip((s.name for s in recurrence.states), recurrence.states, strict=True))
    updates = {s.name: e for s, e in zip(recurrence.states, recurrence.next, strict=True)}
    found: list[Solved | SolvedPair] = []
    while waiting:
        one = _next(waiting, updates)
        found.append(one)
        for state in one.states if isinstance(one, SolvedPair) else (one.state,):
            del waiting[state.name]
    return tuple(found)


def _next(waiting: Mapping[str, Array], updates: Mapping[str, Expr]) -> Solved | SolvedPair:
    """A state, or two, that need none of the others."""
    reasons: list[str] = []
    names = frozenset(waiting)
    for name, state in waiting.items():
        try:
            return _solved(state, updates[name], names)
        except NotCombined as reason:
            reasons.append(str(reason))
    for x, y in itertools.combinations(waiting.values(), 2):
        found = _pair(x, y, updates, names)
        if found is not None:
            return found
    raise NotCombined(reasons[0])


def _pair(
    x: Array, y: Array, updates: Mapping[str, Expr], names: frozenset[str]
) -> SolvedPair | None:
    """Two states that see each other alone, each at its own entry, by a matrix none of whose
    products grows."""
    if x.indices != y.indices or x.kind != "real" or y.kind != "real":
        return None
    factors, added = [], []
    for state in (x, y):
        try:
            terms = affine_terms(updates[state.name], names)
        except NotAffine:
            return None
        sums = {x.name: ZERO, y.name: ZERO}
        free = ZERO
        for term in terms:
            if term.read is None:
                free = make("add", free, term.coefficient)
            elif term.read.array.name in sums and _at_home(term, state):
                name = term.read.array.name
                sums[name] = make("add", sums[name], term.coefficient)
            else:
                return None
        factors += [sums[x.name], sums[y.name]]
        added.append(free)
    a, b, c, d = factors
    stays = max(bound_of(a) + bound_of(b), bound_of(c) + bound_of(d)) <= 1
    if not stays and not is_turn(a, b, c, d):
        raise NotCombined(
            f"that no product of the matrices of {x.name} and {y.name} grows is not proved"
        )
    return SolvedPair((x, y), (a, b, c, d), (added[0], added[1]))


def _solved(state: Array, expr: Expr, waiting: frozenset[str]) -> Solved:
    name = state.name
    if state.kind != "real":
        raise NotCombined(f"{name} is no real number")
    if expr.op in ("max", "min"):
        return _extremum(state, expr, waiting)
    factor, added = _own(state, expr, waiting)
    if not is_share(factor):
        raise NotCombined(f"that the factor of {name} is at most 1 is not proved")
    return Solved(state, ALGEBRAS["sum"], factor, added)


def _own(state: Array, expr: Expr, waiting: frozenset[str]) -> tuple[Expr, Expr]:
    """An expression as factor * (the state's own entry) + what is added."""
    name = state.name
    try:
        terms = affine_terms(expr, waiting)
    except NotAffine as reason:
        raise NotCombined(f"the update of {name} is not affine: {reason}") from None
    factor, added = ZERO, ZERO
    for term in terms:
        if term.read is None:
            added = make("add", added, term.coefficient)
            continue
        if term.read.array.name != name:
            raise NotCombined(f"the update of {name} reads {term.read.array.name} too")
        if not _at_home(term, state):
            raise NotCombined(f"the update of {name} reads it at another place")
        factor = make("add", factor, term.coefficient)
    return factor, added


def _at_home(term: Term, state: Array) -> bool:
    assert term.read is not None
    return not term.bound and term.read.args == tuple(map(position, state.indices))


def _extremum(state: Array, expr: Expr, waiting: frozenset[str]) -> Solved:
    """An update that is a maximum, or a minimum: of the state, with something added to it, and of
    what is free of it."""
    algebra = ALGEBRAS["max" if expr.op == "max" else "min"]
    factor, added = algebra.nothing, algebra.nothing
    for part in _parts(expr, expr.op):
        if not any(is_state(node) and node.array.name in waiting for node in postorder(part)):
            added = make(algebra.add, added, part)
            continue
        own, more = _own(state, part, waiting)
        if not is_number(own, 1):
            raise NotCombined(f"a {expr.op} of a multiple of {state.name}")
        factor = make(algebra.add, factor, more)
    return Solved(state, algebra, factor, added)


def _parts(expr: Expr, op: str) -> tuple[Expr, ...]:
    if expr.op != op:
        return (expr,)
    return tuple(part for arg in expr.args for part in _parts(arg, op))


def is_state(node: Expr) -> bool:
    return node.op == "read" and node.array.role in STATES


def how_combined(recurrence: Recurrence) -> str:
    """How pairs of what rows do combine, for `explain`."""
    kinds: dict[str, list[str]] = {}
    for one in solved(recurrence):
        if isinstance(one, SolvedPair):
            names = " with ".join(state.name for state in one.states)
            kinds.setdefault("(A2 @ A1, A2 @ b1 + b2) of matrices A", []).append(names)
            continue
        kinds.setdefault(one.algebra.combined, []).append(one.state.name)
    said = (f"of {' and '.join(names)} combine to {how}" for how, names in kinds.items())
    return f"pairs (a, b) {', those '.join(said)}"
