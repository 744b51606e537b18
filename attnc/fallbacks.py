"""`e else d` written out: a condition on the positions of reads says whether one is outside."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.expressions.index import Index
from attnc.expressions.tree import (
    FALSE,
    TRUE,
    Expr,
    call,
    fold,
    length,
    number,
    postorder,
    rewrite,
    start,
)

_CHAINS = frozenset(("add", "mul", "and", "or", "min", "max"))


def written_out(expr: Expr) -> Expr:
    """The expression with two operands at most to an operation, and without `default`: a condition
    on the positions of reads decides."""
    expr = rewrite(expr, _binary)
    if not any(node.op == "default" for node in postorder(expr)):
        return expr
    outside: dict[bytes, Expr] = {}

    def change(node: Expr) -> Expr:
        where = outside.__getitem__
        if node.op == "default":
            inner, fallback = node.args
            missing = where(inner.digest)
            changed = call("where", missing, fallback, inner, kind=node.kind, span=node.span)
            outside[changed.digest] = _both(missing, where(fallback.digest))
            return changed
        outside[node.digest] = _outside(node, outside)
        return node

    return rewrite(expr, change)


def _binary(node: Expr) -> Expr:
    if node.op not in _CHAINS or len(node.args) <= 2:
        return node
    first, *rest = node.args
    for arg in rest:
        first = Expr(node.op, (first, arg), None, node.kind, node.span)
    return first


def _outside(node: Expr, known: dict[bytes, Expr]) -> Expr:
    """Whether evaluating the node reads outside an array; `known` says so of its operands."""
    args = [known[arg.digest] for arg in node.args]
    if node.op == "where":
        return _either((args[0], _branch(node.args[0], args[1], args[2])))
    if node.op == "fold":
        inside = _either((args[0], _both(node.args[0], args[1])))
        if not inside.free & set(node.bound):
            return inside
        hits = call("where", inside, number(1), number(0))
        return call("gt", fold("sum", node.bound, hits), number(0))
    if node.op == "read":
        places = zip(node.array.indices, node.args, strict=True)
        args.extend(_beyond(index, place) for index, place in places)
    return _either(args)


def _beyond(index: Index, place: Expr) -> Expr:
    axis = index.axis
    plain = place.op == "index" and isinstance(place.attr, Index) and place.attr.axis is axis
    if plain or axis.form == "coarse":
        return FALSE
    first = start(axis)
    return _either(
        (
            call("lt", place, first),
            call("ge", place, call("add", first, length(axis))),
        )
    )


def _either(parts: Iterable[Expr]) -> Expr:
    found = FALSE
    for part in parts:
        if part in (FALSE, found):
            continue
        found = part if found == FALSE else call("or", found, part)
    return found


def _both(left: Expr, right: Expr) -> Expr:
    if FALSE in (left, right):
        return FALSE
    if left == TRUE:
        return right
    return left if right == TRUE else call("and", left, right)


def _branch(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return FALSE if yes == FALSE and no == FALSE else call("where", condition, yes, no)
