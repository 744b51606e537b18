"""Keys that are pairs of tokens, or more: one axis for the product of theirs.

    sum(j, l if ...: body)  ->  sum(p if ...: body at j = p // len(l), l = p % len(l))

A kernel walks one axis. Where a key is several indices, it walks a product axis of as many places
as there are keys, and what was read at an index is read at a quotient or remainder of the place:
streaming, tiles and derivatives are those of any key.

    does      gives sources with several indices one axis, and the folds over them one index
    needs     a simplified Graph without iterations and recurrences
    does not  know folds over some of a key's indices, or outputs over them: such Graphs stay
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis, Index
from attnc.expressions.naming import fresh_name
from attnc.expressions.places import ends_of
from attnc.expressions.tree import (
    Expr,
    fold,
    number,
    position,
    postorder,
    rewrite,
    substitute,
)
from attnc.graph import Graph
from attnc.passes.simplify import make, simplify_node

Keys = tuple[Axis, ...]


@dataclass(frozen=True)
class Product:
    """The axis of a source's keys, and what each of its indices is at a place."""

    axis: Axis
    of: Keys

    def indices(self, place: Expr) -> tuple[Expr, ...]:
        """What the indices are at a place: the last runs fastest."""
        found: list[Expr] = []
        for inner, axis in enumerate(reversed(self.of), 1):
            size = ends_of(axis)[1]
            whole = make("max", size, number(1))  # of an empty axis there is no place
            rest = make("mod", place, whole) if inner < len(self.of) else place
            found.append(rest if axis.shifted else make("add", ends_of(axis)[0], rest))
            place = make("floordiv", place, whole)
        return tuple(reversed(found))


def keys_on_one_axis(graph: Graph) -> Graph:
    """The graph whose sources have one axis each."""
    several = [source for source in graph.keys if len(source) > 1]
    if not several or graph.recurrences or graph.iterations or _apart(graph, several):
        return graph
    taken = {axis.name for axis in _axes(graph)}
    products = {source: _product(source, taken) for source in dict.fromkeys(several)}

    def change(node: Expr) -> Expr:
        if node.op == "start" and any(node.attr in source for source in several):
            return number(0)  # a call moves the keys of a kernel's own axis alone
        found = products.get(tuple(index.axis for index in node.bound))
        return simplify_node(node) if found is None else _folded(node, found)

    keys = tuple((products[s].axis,) if s in products else s for s in graph.keys)
    return replace(graph.mapped(lambda expr: canonical(rewrite(expr, change))), keys=keys)


def _folded(node: Expr, product: Product) -> Expr:
    level = max(index.number for index in node.bound)
    place = Index(product.axis.name, product.axis, level)
    at = product.indices(position(place))
    moves = dict(zip(node.bound, at, strict=True))
    condition, body = (rewrite(substitute(arg, moves), simplify_node) for arg in node.args)
    return fold(node.monoid, (place,), body, condition)


def _product(source: Keys, taken: set[str]) -> Product:
    words = ("pairs", *dict.fromkeys(axis.name for axis in source))
    name = fresh_name("_".join(words), taken)
    size: Expr = number(1)
    for axis in source:
        size = make("mul", size, ends_of(axis)[1])
    return Product(Axis(name, "range", number(0), size), source)


def _apart(graph: Graph, several: list[Keys]) -> bool:
    """Whether anything but a fold over all of a source's indices is over one of them."""
    axes = {axis for source in several for axis in source}
    folds = {index for output in graph.outputs for index in output.array.indices}
    if any(index.axis in axes for index in folds):
        return True
    bound = (tuple(i.axis for i in node.bound) for node in postorder(*graph.roots) if node.bound)
    return any(set(one) & axes and one not in several for one in bound)


def _axes(graph: Graph) -> Iterable[Axis]:
    for node in postorder(*graph.roots):
        yield from (index.axis for index in (*node.free, *node.bound))
        if node.op == "read":
            yield from node.array.axes
    for output in graph.outputs:
        yield from output.array.axes


__all__ = ["keys_on_one_axis"]
