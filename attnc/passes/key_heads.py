"""The key head of a query head: hk at h // (len(h) // len(hk)).

does      finds the condition that ties the two, and sums that are over the one key head it names
needs     the roles of axes: a key head's axis is coarse
does not  sum over the query heads of a key head
"""

from __future__ import annotations

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, call, length, number, rewrite, substitute
from attnc.expressions.tree import fold as sum_over
from attnc.graph import conjuncts
from attnc.passes.roles import Roles
from attnc.passes.simplify import all_of, make, simplify_node


def uncoarsened(expr: Expr, roles: Roles) -> Expr:
    """The expression with `sum(hk if h // group == hk: x[hk])` as x[h // group]."""

    def change(node: Expr) -> Expr:
        if node.op != "fold" or node.monoid != "sum":
            return simplify_node(node)
        for part in conjuncts(node.args[0]):
            found = coarse_place(part, roles)
            if found is None or found[1] not in node.bound or found[1] in found[0].free:
                continue
            place, coarse = found
            whole = all_of(p for p in conjuncts(node.args[0]) if p is not part)
            moves = {coarse: place}
            bound = tuple(i for i in node.bound if i != coarse)
            test, body = substitute(whole, moves), substitute(node.args[1], moves)
            if bound:
                return sum_over("sum", bound, body, test)
            return make("where", test, body, number(0.0))
        return simplify_node(node)

    return rewrite(expr, change)


def coarse_place(part: Expr, roles: Roles) -> tuple[Expr, Index] | None:
    """h // (len(h) // len(hk)) and hk of the condition that ties a query head to its key head."""
    if part.op != "eq":
        return None
    for place, other in (part.args, part.args[::-1]):
        coarse = other.attr
        if other.op != "index" or not isinstance(coarse, Index):
            continue
        if roles.of(coarse.axis) != "coarse" or place.op != "floordiv":
            continue
        fine, size = place.args
        whole = fine.op == "index" and size == group_size(coarse.axis)
        if whole and isinstance(fine.attr, Index) and fine.attr.axis is coarse.axis.of:
            return place, coarse
    return None


def group_size(coarse: Axis) -> Expr:
    """How many fine indices a coarse one has."""
    assert coarse.of is not None
    return call("floordiv", length(coarse.of), length(coarse))
