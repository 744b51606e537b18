"""Folds over the places of a block of keys, as folds over keys.

    max(r < n: f(n * c + r))          max(j if j // n == c: f(j))

What a row makes of the keys of a block is a statistic of a group then (see grouped), and not as
many sums over a width as the block has keys.

does      says such folds over the keys that they read
needs     a checked Spec
does not  touch what has an `else` for places outside, or asks of other keys besides
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attnc.expressions.index import Axis, Index
from attnc.expressions.places import first_of, size_of
from attnc.expressions.tree import (
    Expr,
    call,
    fold,
    is_number,
    position,
    postorder,
    rewrite,
)
from attnc.passes.contexts import unbound
from attnc.passes.integers import Polynomial, difference, polynomial, total, whole
from attnc.passes.separate import exchange
from attnc.passes.simplify import make
from attnc.spec import Block, Definition, Spec


def with_key_blocks(spec: Spec) -> Spec:
    """The Spec with every such fold of its blocks over keys."""
    root = _changed(spec.root)
    if root is spec.root:
        return spec
    return replace(spec, root=root, definitions={**spec.definitions, **dict(_named(root))})


def _named(block: Block) -> Iterable[tuple[str, Definition]]:
    for one in (*block.statements, block.result, *block.emits):
        if isinstance(one, Block):
            yield from _named(one)
        elif isinstance(one, Definition):
            yield one.array.name, one


def _changed(block: Block) -> Block:
    keys = {key.axis for source in block.sources for key in source.keys}
    rows = {row.axis for row in block.rows}

    def change(one: Definition) -> Definition:
        expr = rewrite(one.expr, lambda node: _over_keys(node, keys - rows, rows))
        return one if expr == one.expr else replace(one, expr=expr)

    statements = tuple(
        _changed(one)
        if isinstance(one, Block)
        else change(one)
        if isinstance(one, Definition)
        else one
        for one in block.statements
    )
    found = replace(
        block,
        statements=statements,
        result=change(block.result),
        emits=tuple(map(change, block.emits)),
    )
    return block if found == block else found


def _over_keys(node: Expr, keys: set[Axis], rows: set[Axis]) -> Expr:
    """The fold over keys; the node itself where it is none of a row's blocks of keys."""
    if node.op != "fold" or len(node.bound) != 1 or not any(i.axis in rows for i in node.free):
        return node
    (within,) = node.bound
    counted = within.axis.form == "range" and is_number(first_of(within.axis), 0)
    if not counted or within.axis in keys:
        return node
    places = _places(node, within)
    if len(set(places.values())) != 1:
        return node
    place, axis = next(iter(places.items()))
    if axis not in keys or any(difference(place, other) != 0 for other in places):
        return node
    size = size_of(within.axis)
    block = _divided(polynomial(place) - polynomial(position(within)), size)
    if block is None or not block.free or within in block.free:
        return node
    key = unbound(Index(axis.name, axis), node.free)
    moves = {one.digest: position(key) for one in places}
    condition, body = (exchange(part, moves) for part in node.args)
    if within in condition.free | body.free:
        return node
    own = call("eq", call("floordiv", position(key), size), block)
    return fold(node.monoid, (key,), body, make("and", condition, own), node.span)


def _places(node: Expr, within: Index) -> dict[Expr, Axis]:
    """The places with `within` in them at which the fold reads, and the axis of each; none where
    it may read outside."""
    found: dict[Expr, Axis] = {}
    for below in postorder(node):
        if below.op == "default":
            return {}
        if below.op == "read":
            at_axes = zip(below.args, below.array.axes, strict=True)
            found.update((at, axis) for at, axis in at_axes if within in at.free)
    return found


def _divided(sums: Polynomial, size: Expr) -> Expr | None:
    """The polynomial over a number that every term of it has as a factor."""
    whole_size = whole(size)
    terms = {}
    for factors, coefficient in sums.terms.items():
        rest = list(factors)
        if whole_size and coefficient % whole_size == 0:
            terms[factors] = coefficient // whole_size
        elif size in rest:
            rest.remove(size)
            terms[tuple(rest)] = coefficient
        else:
            return None
    return total(Polynomial(terms))
