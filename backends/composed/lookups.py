"""Weighted sums of rows that are looked up, of which a library keeps neither the rows nor their
products.

    sum(p: w[i, p] * x[at[i, p]])                              a row picks some of x's
    sum(p: w[i, p] * sum(a < 2: tent(...) * x[floor(...) + a]))    or reads between its points
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    is_number,
    number,
    position,
    postorder,
    read,
)
from attnc.graph import conjuncts


@dataclass(frozen=True)
class Bagged:
    """The sum over `bound` of weight * x[at] where the condition holds; `rows` is x at `place`."""

    bound: tuple[Index, ...]
    rows: Expr
    place: Index
    at: Expr
    weight: Expr
    condition: Expr

    @property
    def operands(self) -> tuple[Expr, ...]:
        return (self.rows, self.at, self.weight, self.condition)


@dataclass
class _Parts:
    bound: list[Index]
    tests: list[Expr]
    factors: list[Expr]


def bagged(node: Expr) -> Bagged | None:
    """The form of a sum of rows that are looked up; None where it is none."""
    if not _plain_sum(node) or node.kind != "real":
        return None
    parts = _Parts([], [], [])
    _collect(node, parts)
    bound = set(parts.bound)
    found = [(f, n) for f in parts.factors if (n := _looked_up(f, bound)) is not None]
    if len(found) != 1:
        return None
    rows, which = found[0]
    at, index = rows.args[which], rows.array.indices[which]
    weight = _product(factor for factor in parts.factors if factor is not rows)
    condition = reduce(lambda a, b: call("and", a, b), parts.tests, TRUE)
    own = at.free | weight.free | condition.free
    bare = {arg.attr for n, arg in enumerate(rows.args) if n != which}
    if not bound <= own | bare:
        return None
    place = replace(index, name=f"place of {index.name}")
    places = (position(place) if n == which else arg for n, arg in enumerate(rows.args))
    return Bagged(tuple(parts.bound), read(rows.array, places), place, at, weight, condition)


def _collect(node: Expr, parts: _Parts) -> None:
    """The factors of a sum, those of sums among them; depth is that of the text's products."""
    if _plain_sum(node) and (not parts.bound or _reads_apart(node)):
        parts.bound += node.bound
        _collect(node.args[1], parts)
    elif node.op == "mul":
        for arg in node.args:
            _collect(arg, parts)
    elif node.op == "where" and is_number(node.args[2], 0):
        parts.tests += conjuncts(node.args[0])
        _collect(node.args[1], parts)
    else:
        parts.factors.append(node)


def _plain_sum(node: Expr) -> bool:
    return node.op == "fold" and node.monoid == "sum" and node.args[0] == TRUE


def _reads_apart(node: Expr) -> bool:
    bound = set(node.bound)
    return any(_looked_up(each, bound) is not None for each in postorder(node.args[1]))


def _looked_up(node: Expr, bound: set[Index]) -> int | None:
    """The one dimension of a read whose place bound indices and others decide; no other one is
    read at a place that bound indices are part of."""
    if node.op != "read" or node.kind != "real":
        return None
    bare = [at.attr for at in node.args if at.op == "index"]
    moving = [n for n, at in enumerate(node.args) if at.op != "index" and at.free & bound]
    if len(moving) != 1 or len(set(bare)) != len(bare):
        return None
    for at, index in zip(node.args, node.array.indices, strict=True):
        own = at.attr if at.op == "index" else None
        if isinstance(own, Index) and own.axis.name != index.axis.name:
            return None
    return moving[0] if node.args[moving[0]].free - bound else None


def _product(factors: Iterable[Expr]) -> Expr:
    found = list(factors)
    if not found:
        return number(1.0)
    return reduce(lambda left, right: call("mul", left, right), found)
