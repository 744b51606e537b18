"""Names of bound indices: the same for trees that differ only in them.

A fold's bound indices are named after their axis and numbered by the height of the fold (how deeply
folds are nested below it), so that alpha-equal folds have equal digests. Free indices are kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    Expr,
    Payload,
    position,
    postorder,
    rewrite,
    scoped,
    substitute,
)

APART = 1_000_000  # a number that no index of a text reaches


def set_apart(root: Expr, done: Container[bytes] = ()) -> Expr:
    """The tree with every bound index numbered beyond APART: nothing put into it is captured.

    done: digests of subtrees that were set apart before"""

    bound = {i for node in postorder(root, done=done) for i in node.bound if i.number < APART}
    hidden = bound & root.free  # a fold's own and the tree's: one index is two

    def change(node: Expr) -> Expr:
        if node.op == "index" and node.attr in bound - hidden:
            assert isinstance(node.attr, Index)
            return position(_apart(node.attr))
        node = rename_bound(node, {index: _apart(index) for index in node.bound if index in hidden})
        return rebind(node, {index: _apart(index) for index in node.bound})

    return rewrite(root, change) if bound else root


def _apart(index: Index) -> Index:
    return index if index.number >= APART else Index(index.name, index.axis, index.number + APART)


def rebind(node: Expr, exchange: dict[Index, Index]) -> Expr:
    """A fold or selection that binds other indices; its operands are taken as they are."""
    if not node.bound or not exchange:
        return node
    assert isinstance(node.attr, tuple)
    attr = tuple(exchange.get(p, p) if isinstance(p, Index) else p for p in node.attr)
    return node if attr == node.attr else Expr(node.op, node.args, attr, node.kind, node.span)


def rename_bound(node: Expr, exchange: dict[Index, Index]) -> Expr:
    """A fold with its bound indices renamed, in what sees them too. The new ones must be free in
    neither operand."""
    moves = {old: position(new) for old, new in exchange.items() if old != new}
    if not moves:
        return node
    inner = scoped(node)
    args = tuple(
        substitute(arg, moves) if place < inner else arg for place, arg in enumerate(node.args)
    )
    return rebind(node, exchange).with_args(args)


def indices_in(*roots: Expr) -> set[Index]:
    """Every index that the trees bind or leave free."""
    free = (index for root in roots for index in root.free)
    return {*free, *(index for node in postorder(*roots) for index in node.bound)}


def fresh_index(index: Index, taken: Iterable[Index]) -> Index:
    """An index of the same axis and name that is none of the taken, nor any that `canonical` or
    `set_apart` could give a fold."""
    numbers = (one.number for one in taken if one.name == index.name)
    return Index(index.name, index.axis, 1 + max((2 * APART, *numbers)))


@dataclass(frozen=True, eq=False, slots=True)
class Scope:
    """The names that a fold gives to what it binds, within those of the folds around it."""

    around: Scope | None
    names: dict[Index, Index]

    def of(self, free: frozenset[Index]) -> Scope | None:
        """The innermost scope that says something of these indices."""
        scope: Scope | None = self
        while scope is not None and free.isdisjoint(scope.names):
            scope = scope.around
        return scope


def canonical(root: Expr) -> Expr:
    """The tree with its bound indices renamed by axis and height."""
    height = _heights(root)
    scopes: dict[tuple[Scope | None, Payload, int], Scope] = {}
    done: dict[tuple[bytes, Scope | None], Expr] = {}

    def within(arg: Expr, scope: Scope | None) -> tuple[bytes, Scope | None]:
        return arg.digest, scope and scope.of(arg.free)

    stack: list[tuple[Expr, Scope | None]] = [(root, None)]
    while stack:
        node, scope = stack[-1]
        key = node.digest, scope
        if key in done:
            stack.pop()
            continue
        level = height[node.digest]
        if scope is None and not level:
            done[key] = node
            continue
        if node.op == "index":
            assert scope is not None and isinstance(node.attr, Index)
            done[key] = position(scope.names[node.attr])
            continue
        inner = scope
        if node.bound:
            named = (scope, node.attr, level)
            if named not in scopes:
                scopes[named] = Scope(scope, _named(node.bound, level))
            inner = scopes[named]
        seen = scoped(node)
        keys = [within(arg, inner if n < seen else scope) for n, arg in enumerate(node.args)]
        waiting = [(a, k[1]) for a, k in zip(node.args, keys, strict=True) if k not in done]
        if waiting:
            stack += waiting
            continue
        if inner is not scope:
            assert inner is not None
            node = rebind(node, inner.names)
        done[key] = node.with_args(tuple([done[one] for one in keys]))
    return done[root.digest, None]


def _heights(root: Expr) -> dict[bytes, int]:
    """How many indices folds within one another bind, in each node and below it."""
    height: dict[bytes, int] = {}
    for node in postorder(root):
        below = max([height[arg.digest] for arg in node.args], default=0)
        height[node.digest] = below + len(node.bound)
    return height


def _named(bound: tuple[Index, ...], height: int) -> dict[Index, Index]:
    first = height - len(bound) + 1
    return {
        index: Index(index.axis.name, index.axis, number)
        for number, index in enumerate(bound, first)
    }
