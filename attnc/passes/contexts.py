"""Folds opened and closed again.

does      opens a fold: its bound indices become free ones, named so that two folds over one
          axis speak of the same key; closes sums over such indices, with bound indices named by
          height as everywhere (expressions/canonical.py), so that equal folds are equal nodes
needs     canonical expressions: what is bound has a number of 1 and more
does not  simplify across folds
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    fold,
    length,
    number,
    position,
    postorder,
    substitute,
)
from attnc.graph import conjuncts
from attnc.passes.simplify import make, simplify_node


@dataclass(frozen=True, slots=True)
class Opened:
    """The operands of a fold over open indices."""

    bound: tuple[Index, ...]
    conditions: tuple[Expr, ...]
    body: Expr

    @property
    def free(self) -> frozenset[Index]:
        """The indices that it depends on for which points it is over."""
        return frozenset().union(*(one.free for one in self.conditions)) - frozenset(self.bound)

    @property
    def seen(self) -> Expr:
        """Whether the fold is over anything."""
        if not self.conditions:
            lengths = (make("gt", length(index.axis), number(0)) for index in self.bound)
            return reduce(lambda one, other: make("and", one, other), lengths)
        return make("gt", close("sum", self.bound, self.conditions, number(1)), number(0))


def opened(node: Expr) -> Opened:
    """A fold's operands, its bound indices named after their axes apart from what is free."""
    taken = set(node.free)
    fresh: dict[Index, Index] = {}
    for index in node.bound:
        fresh[index] = unbound(index, taken)
        taken.add(fresh[index])
    moves = {old: position(new) for old, new in fresh.items()}
    condition, body = (substitute(arg, moves) for arg in node.args)
    return Opened(tuple(fresh.values()), conjuncts(condition), body)


def unbound(index: Index, taken: Iterable[Index]) -> Index:
    """An index that no fold binds (number 0) on the axis of `index`."""
    name = index.axis.name
    others = {other.name for other in taken if other.number == 0}
    while name in others:
        name += "_"
    return Index(name, index.axis, 0)


def close(monoid: str, bound: Iterable[Index], conditions: Iterable[Expr], body: Expr) -> Expr:
    """The fold over open indices where all the conditions hold, its bound indices named by height
    (the folds within are already)."""
    whole = TRUE
    for condition in conditions:
        whole = condition if whole == TRUE else make("and", whole, condition)
    level = height(whole, body)
    named = {
        index: Index(index.axis.name, index.axis, level + place)
        for place, index in enumerate(bound, 1)
    }
    moves = {old: position(new) for old, new in named.items()}
    inner = substitute(body, moves)
    return simplify_node(fold(monoid, named.values(), inner, substitute(whole, moves)))


def height(*roots: Expr) -> int:
    """How deeply folds are nested, each counted by its bound indices."""
    found: dict[bytes, int] = {}
    for node in postorder(*roots):
        below = max((found[arg.digest] for arg in node.args), default=0)
        found[node.digest] = below + len(node.bound)
    return max(found[root.digest] for root in roots)


def excluded(node: Expr, inner: Opened) -> Expr:
    """The product of a fold's entries but one, that at the open indices."""
    taken = {*node.free, *inner.bound}
    others = []
    for index in inner.bound:
        others.append(unbound(index, taken))
        taken.add(others[-1])
    moves = {a: position(b) for a, b in zip(inner.bound, others, strict=True)}
    apart: Expr | None = None
    for a, b in zip(inner.bound, others, strict=True):
        differs = call("ne", position(b), position(a))
        apart = differs if apart is None else call("or", apart, differs)
    assert apart is not None
    conditions = (*(substitute(c, moves) for c in inner.conditions), apart)
    return close("prod", others, conditions, substitute(inner.body, moves))
