"""Folds over a few written points, point by point: sum(a < 2: f(a))  ->  f(0) + f(1).

does      so where a read in f is at a place that both `a` and data decide, as of a table between
          its entries: each point is a look-up of its own, of which kernels know the derivative;
          and where f has a product along a width whose two sides stand at places that `a` decides,
          as scores convolved over neighbours, dot(q[i - a], k[j - a]), or mixed over a written
          number of heads: each point is a product of tiles of its own, where the fold would be a
          loop within each pair
needs     nothing
does not  touch folds over more than LOOK_UPS or PRODUCTS points, or over axes whose lengths a call
          brings
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import product

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
    Expr,
    call,
    number,
    number_of,
    position,
    postorder,
    rewrite,
    substitute,
)
from attnc.graph import Graph, NodeKind, node_kind

LOOK_UPS = 4
PRODUCTS = 32
JOINS = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
NOTHING = {"sum": 0.0, "prod": 1.0, "max": float("-inf"), "min": float("inf")}


def unroll(graph: Graph) -> Graph:
    """The graph without such folds."""
    return graph.mapped(lambda expr: rewrite(expr, _written_out))


def _written_out(node: Expr) -> Expr:
    if node.op != "fold" or node.kind != "real":
        return node
    most = LOOK_UPS if _looks_up(node) else PRODUCTS if _moves_products(node) else 0
    ranges = [_points(index) for index in node.bound]
    known = [one for one in ranges if one is not None]
    points = list(product(*known)) if len(known) == len(ranges) else []
    if not 0 < len(points) <= most:
        return node
    parts = [_at(node, dict(zip(node.bound, map(number, one), strict=True))) for one in points]
    return reduce(lambda left, right: call(JOINS[node.monoid], left, right), parts)


def _looks_up(node: Expr) -> bool:
    bound = set(node.bound)
    return any(
        each.op == "read"
        and node_kind(each) is NodeKind.GATHER
        and any(at.free & bound and at != _bare(at) for at in each.args)
        for each in postorder(node.args[1])
    )


def _moves_products(node: Expr) -> bool:
    """Whether it is a sum of products of two sides, each at a place that it decides."""
    bound = set(node.bound)
    inner = (each for each in postorder(node.args[1]) if each.op == "fold" and each.free & bound)
    sums = (each for each in inner if each.monoid == "sum")
    return node.monoid == "sum" and any(_has_sides(each, bound) for each in sums)


def _has_sides(fold: Expr, bound: set[Index]) -> bool:
    """Whether two reads of a sum stand at places that one of the indices decides, of which neither
    is over all that the other is over (but for the width)."""
    reads = (each for each in postorder(fold.args[1]) if each.op == "read")
    moved = [each for each in reads if any(_is_moved(*at, bound) for at in _places(each))]
    over = [frozenset[Index]().union(*(at.free for at in each.args[:-1])) for each in moved]
    tokens = [one - bound.union(fold.bound) for one in over]
    return any(not one <= other and not other <= one for one in tokens for other in tokens)


def _places(read: Expr) -> Iterable[tuple[Expr, Axis]]:
    return zip(read.args, read.array.axes, strict=True)


def _is_moved(at: Expr, axis: Axis, bound: set[Index]) -> bool:
    """Whether one of the indices decides a place, and is not itself the place on its own axis."""
    own = at.op == "index" and isinstance(at.attr, Index) and at.attr.axis is axis
    return bool(at.free & bound) and not own


def _bare(at: Expr) -> Expr | None:
    return position(at.attr) if at.op == "index" and isinstance(at.attr, Index) else None


def _points(index: Index) -> range | None:
    axis = index.axis
    if axis.form != "range" or axis.shifted or axis.length is None:
        return None
    ends = [axis.length] if axis.low is None else [axis.low, axis.length]
    if any(end.op != "number" or not isinstance(end.attr, int) for end in ends):
        return None
    first = 0 if axis.low is None else int(number_of(ends[0]))
    return range(first, first + int(number_of(axis.length)))


def _at(node: Expr, place: dict[Index, Expr]) -> Expr:
    condition, body = (substitute(arg, place) for arg in node.args)
    if condition == TRUE:
        return body
    return call("where", condition, body, number(NOTHING[node.monoid]))


__all__ = ["unroll"]
