"""Updates of states in affine form: S <- (a linear map of the states) + C, and what the map is.

    does      finds, by algebra on the update's text, the coefficient of every read of a state; says
              whether the transition is the identity, a scalar, diagonal along some axes, identity
              or diagonal plus low rank, coupled with other states, unstructured, or not affine
    needs     a Recurrence; equations are inlined
    does not  use that a coefficient is small, or look at names

A read of a state at its own place, `a * S[d, e]`, is the diagonal. One that a sum moves along an
axis, `sum(d': u[d] * w[d'] * S[d', e])`, is of rank one where its coefficient is a product of
factors without d' and factors without d (a Householder product, a delta rule), or a sum of such,
else unstructured. Update lines one after another are one transition of all: n corrections in rank
one are one of rank n, whose vectors on the right are products with the state before the row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from attnc.expressions.index import Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    fold,
    is_number,
    number,
    number_of,
    position,
    postorder,
    substitute,
)
from attnc.graph import Recurrence
from attnc.passes.bounded import is_share
from attnc.passes.factors import ONE, ZERO, Factors, addends_of, factors_of, total
from attnc.passes.simplify import make

Kind = Literal[
    "kept", "sum", "scalar", "diagonal", "elementwise", "low rank", "diagonal plus low rank",
    "coupled", "unstructured", "not affine",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Term:
    """sum over `bound` of coefficient * read; without a read, what is added."""

    coefficient: Expr
    read: Expr | None = None
    bound: tuple[Index, ...] = ()

    def times(self, factor: Expr) -> Term:
        return replace(self, coefficient=make("mul", factor, self.coefficient))


@dataclass(frozen=True, slots=True)
class RankOne:
    """sum over `bound` of left * right * S, S standing at `bound` in the place of `along`: left is
    free of `bound`, right of `along`."""

    along: Index
    bound: Index
    left: Expr
    right: Expr

    @property
    def vector(self) -> tuple[Expr, bool]:
        """`right` at `along`, without its sign, and whether that is a minus."""
        factors = factors_of(self.right)
        plain = Factors(factors.above, factors.below).expr
        return substitute(plain, {self.bound: position(self.along)}), factors.negative


@dataclass(frozen=True, slots=True)
class Transition:
    """What one state becomes.

    decay      the coefficient of the state's own entry; None: its old entry does not count
    low_rank   corrections along an axis
    coupled    terms of other states
    rest       terms of the state itself that have no structure known here
    added      C; None: nothing is added
    reason     why the update is not affine; empty where it is
    widths     the state's indices that are widths, not outer axes or rows
    """

    state: Array
    decay: Expr | None
    low_rank: tuple[RankOne, ...]
    coupled: tuple[Term, ...]
    rest: tuple[Term, ...]
    added: Expr | None
    widths: tuple[Index, ...]
    reason: str = ""

    @property
    def along(self) -> tuple[Index, ...]:
        """The widths of the state along which the decay varies."""
        return tuple(i for i in self.widths if self.decay is not None and i in self.decay.free)

    @property
    def rank(self) -> int:
        """How many products with the state correct it."""
        return len({one.vector[0] for one in self.low_rank})

    @property
    def kind(self) -> Kind:
        """The class of the transition."""
        if self.reason:
            return "not affine"
        if self.rest:
            return "unstructured"
        if self.coupled:
            return "coupled"
        whole = len(self.along) == len(self.widths) and bool(self.widths)
        if self.low_rank:
            if self.decay is not None and whole and len(self.widths) > 1:
                return "unstructured"
            return "diagonal plus low rank" if self.along else "low rank"
        if self.decay is None:
            return "kept"
        if is_number(self.decay, 1):
            return "sum"
        if whole:
            return "elementwise"
        return "diagonal" if self.along else "scalar"


def transitions(recurrence: Recurrence, outer: Iterable[Index]) -> tuple[Transition, ...]:
    """What each state of a recurrence becomes; `outer`: indices that tell instances apart."""
    names = frozenset(state.name for state in recurrence.states)
    apart = frozenset(outer)
    pairs = zip(recurrence.states, recurrence.next, strict=True)
    return tuple(_transition(state, expr, names, apart) for state, expr in pairs)


def log_decay(transition: Transition) -> Expr | None:
    """The logarithm of a decay that is a product of exponentials, logistic functions, numbers and
    choices between such, 0 for a decay of 1; None where it is another number."""
    return None if transition.decay is None else log_of(transition.decay)


def log_of(expr: Expr) -> Expr | None:
    """The same of any factor."""
    factors = factors_of(expr)
    if factors.negative or factors.below:
        return None
    logs = [_log(factor) for factor in factors.above]
    known = [log for log in logs if log is not None]
    return None if len(known) < len(logs) else total(known)


def _log(factor: Expr) -> Expr | None:
    if factor.op == "exp":
        return factor.args[0]
    if factor.op == "sigmoid":
        return make("neg", make("softplus", make("neg", factor.args[0])))
    if is_number(factor):
        size = number_of(factor)
        return number(math.log(size) if size > 0 else -math.inf) if size >= 0 else None
    if factor.op == "where":
        branches = [log_of(branch) for branch in factor.args[1:]]
        known = [branch for branch in branches if branch is not None]
        return make("where", factor.args[0], *known) if len(known) == 2 else None
    return None


def shrinks(transition: Transition) -> bool:
    """Whether the decay is proved to lie between 0 and 1."""
    return transition.decay is not None and is_share(transition.decay)


def sentence(transition: Transition) -> str:
    """What the transition is, for `explain`."""
    name, kind = transition.state.name, transition.kind
    decay = "" if transition.decay is None else expression_text(transition.decay, 60)
    axes = " and ".join(index.name for index in transition.along)
    if kind == "not affine":
        return f"{name}: the update is not affine in the states: {transition.reason}."
    if kind == "unstructured":
        return f"{name}: the update is affine, by a matrix without a structure that is known here."
    if kind == "coupled":
        others = sorted({t.read.array.name for t in transition.coupled if t.read is not None})
        return f"{name}: the update is affine and reads {', '.join(others)} beside {name}."
    how = {
        "kept": f"{name}: replaced at every row.",
        "sum": f"{name}: a running sum.",
        "scalar": f"{name}: decayed by one number a head and row, {decay}.",
        "diagonal": f"{name}: decayed by a number for each {axes}, {decay}.",
        "elementwise": f"{name}: every entry decays by itself, by {decay}.",
        "low rank": f"{name}: decayed by {decay or '0'} and corrected in rank {{rank}} along "
        "{by}.",
        "diagonal plus low rank": f"{name}: decayed for each {axes} by {decay} and corrected in "
        "rank {rank} along {by}.",
    }[kind]
    by = " and ".join(dict.fromkeys(one.along.name for one in transition.low_rank))
    said = how.replace("{rank}", str(transition.rank)).replace("{by}", by)
    if kind in ("kept", "sum") or shrinks(transition):
        return said
    return f"{said} That it is at most 1 is not proved."


# ------------------------------------------------------------------------------------ algebra


class NotAffine(Exception):
    """What keeps an expression from being affine in the states."""


def _transition(
    state: Array, expr: Expr, names: frozenset[str], outer: frozenset[Index]
) -> Transition:
    widths = tuple(i for i in state.indices if i not in outer and i.axis.of is None)
    try:
        terms = _merged(affine_terms(expr, names))
    except NotAffine as reason:
        return Transition(state, None, (), (), (), None, widths, str(reason))
    decay: Expr | None = None
    added: Expr | None = None
    low_rank: list[RankOne] = []
    coupled: list[Term] = []
    rest: list[Term] = []
    for term in terms:
        if term.read is None:
            added = term.coefficient
        elif term.read.array.name != state.name:
            coupled.append(term)
        elif term.read.args == tuple(map(position, state.indices)) and not term.bound:
            decay = term.coefficient
        else:
            found = corrections_of(term, state, widths)
            low_rank += found
            rest += [] if found else [term]
    return Transition(state, decay, tuple(low_rank), tuple(coupled), tuple(rest), added, widths)


def affine_terms(expr: Expr, names: frozenset[str]) -> tuple[Term, ...]:
    """The expression as a sum of terms of at most one read of a state each, operands before users.

    Raises NotAffine with what stands in the way."""
    known: dict[bytes, tuple[Term, ...]] = {}
    for node in postorder(expr):
        known[node.digest] = _terms(node, [known[arg.digest] for arg in node.args], names)
    return known[expr.digest]


def _terms(node: Expr, parts: list[tuple[Term, ...]], names: frozenset[str]) -> tuple[Term, ...]:
    own = node.op == "read" and node.array.name in names and node.array.role != "input"
    moved = [any(term.read is not None for term in part) for part in parts]
    if own:
        if any(moved):
            raise NotAffine("a state is read at a place that a state decides")
        return (Term(ONE, node),)
    if not any(moved):
        return (Term(node),)
    if node.op in ("add", "sub"):
        second = parts[1] if node.op == "add" else tuple(_negated(t) for t in parts[1])
        return (*parts[0], *second)
    if node.op in ("neg",):
        return tuple(_negated(term) for term in parts[0])
    if node.op in ("to_real", "stop"):
        return parts[0]
    if node.op == "mul":
        if all(moved):
            raise NotAffine("it multiplies states")
        place = moved.index(True)
        return tuple(term.times(node.args[1 - place]) for term in parts[place])
    if node.op == "div" and not moved[1]:
        inverse = make("div", ONE, node.args[1])
        return tuple(term.times(inverse) for term in parts[0])
    if node.op == "where" and not moved[0]:
        return (*_chosen(node, parts[1], True), *_chosen(node, parts[2], False))
    if node.op == "fold" and node.monoid == "sum" and not moved[0]:
        return tuple(_summed(node, term) for term in parts[1])
    word = f"a {node.monoid} over" if node.op == "fold" else f"`{node.op}` of"
    raise NotAffine(f"{word} a state")


def _negated(term: Term) -> Term:
    return replace(term, coefficient=make("neg", term.coefficient))


def _chosen(node: Expr, terms: tuple[Term, ...], yes: bool) -> tuple[Term, ...]:
    condition = node.args[0]

    def kept(coefficient: Expr) -> Expr:
        pair = (coefficient, ZERO) if yes else (ZERO, coefficient)
        return make("where", condition, *pair)

    return tuple(replace(term, coefficient=kept(term.coefficient)) for term in terms)


def _summed(node: Expr, term: Term) -> Term:
    condition = node.args[0]
    if term.read is None:
        return Term(fold("sum", node.bound, term.coefficient, condition))
    inside = term.coefficient
    if condition != TRUE:
        inside = make("where", condition, inside, ZERO)
    return Term(inside, term.read, (*node.bound, *term.bound))


def _merged(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Terms of one read together, those without a read last."""
    sums: dict[tuple[object, tuple[Index, ...]], Term] = {}
    for term in terms:
        if term.read is None and is_number(term.coefficient, 0):
            continue
        key = (term.read, term.bound)
        if key in sums:
            joined = make("add", sums[key].coefficient, term.coefficient)
            sums[key] = replace(term, coefficient=joined)
        else:
            sums[key] = term
    return tuple(sums.values())


def corrections_of(term: Term, state: Array, widths: tuple[Index, ...]) -> list[RankOne]:
    """The term as corrections along one axis; none where it is more than these."""
    whole = _rank_one(term, state, widths)
    if whole is not None:
        return [whole]
    found = []
    for addend, minus in addends_of(term.coefficient):
        part = replace(term, coefficient=make("neg", addend) if minus else addend)
        one = _rank_one(part, state, widths)
        if one is None:
            return []
        found.append(one)
    return found


def _rank_one(term: Term, state: Array, widths: tuple[Index, ...]) -> RankOne | None:
    """The term as a correction along one axis, or None. Of several sums one moves the read; the
    others are sums of what is beside it."""
    assert term.read is not None
    pairs = zip(state.indices, term.read.args, strict=True)
    moved = [(index, at) for index, at in pairs if at != position(index)]
    if len(moved) != 1 or moved[0][1] not in map(position, term.bound):
        return None
    along, bound = moved[0][0], next(i for i in term.bound if position(i) == moved[0][1])
    others = tuple(index for index in term.bound if index != bound)
    right, left = factors_of(term.coefficient).split(lambda factor: bound in factor.free)
    if others:
        beside, left = left.split(lambda factor: not factor.free.isdisjoint(others))
        left = left * Factors((fold("sum", others, beside.expr),))
    across = [index for index in widths if index != along and index in left.expr.free]
    across += [index for index in widths if index in right.expr.free]
    if across or not right.expr.free.isdisjoint(others):
        return None
    return RankOne(along, bound, left.expr, right.expr)
