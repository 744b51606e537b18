"""Maps: one array from an expression, with what a row shares computed once."""

from __future__ import annotations

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, postorder, rewrite
from attnc.passes.frame import Frame
from attnc.passes.hoist import Hoister, Names
from attnc.passes.simplify import simplify_node
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Store


def map_of(
    name: str,
    over: tuple[Index, ...],
    width: Index | None,
    array: Array,
    expr: Expr,
    taken: set[str],
    share: bool = True,
) -> MapKernel:
    """The map that stores `expr` for each of `over` and `width`. `share`: what is used more than
    once has a name."""
    inner = Frame(over, width or Index("none", Axis("none"), -1), ())
    hoister = Hoister(inner, Names(set(taken)))
    whole = simplify_node(expr)
    if share:
        (whole,) = hoister.share((whole,), "grid")
    whole = hoister.hoist(whole, "held")
    along = {let.name: let.expr for let in hoister.lets["held"]}

    def back(node: Expr) -> Expr:  # a map has no values along its width
        return along.get(str(node.attr), node) if node.op == "value" else node

    while any(node.op == "value" and str(node.attr) in along for node in postorder(whole)):
        whole = rewrite(whole, back)
    return MapKernel(name, over, tuple(hoister.lets["grid"]), (Store(array, width, whole),))
