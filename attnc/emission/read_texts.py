"""Prints what a call must test of its reads as the plain data of attnc/runtime/reads.py.

A formula becomes a nested tuple, operation first. Names are string literals: nothing from a spec
becomes an identifier.
"""

from __future__ import annotations

from typing import Any

from attnc.expressions.index import Axis, Index
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Expr, postorder
from attnc.signature import ReadRequirement, Signature


def print_reads(signature: Signature) -> list[str]:
    """One `ReadCheck(...)` for each read that the call tests."""
    return [_print_read(needed) for needed in signature.reads]


def _print_read(needed: ReadRequirement) -> str:
    parts = (needed.condition, *needed.given)
    free = sorted(set().union(*(part.free for part in parts)), key=str)
    indices = tuple((str(index), index.axis.name, _start(index.axis)) for index in free)
    given = tuple(_formula(part) for part in needed.given)
    return (
        f"ReadCheck(\n        {needed.text!r},\n"
        f"        {expression_text(needed.condition, limit=200)!r},\n"
        f"        indices={indices!r},\n        condition={_formula(needed.condition)!r},\n"
        f"        given={given!r},\n    )"
    )


def _formula(expr: Expr) -> Any:
    done: dict[bytes, Any] = {}
    for node in postorder(expr):
        done[node.digest] = _node(node, [done[arg.digest] for arg in node.args])
    return done[expr.digest]


def _node(node: Expr, args: list[Any]) -> Any:
    if node.op == "number":
        return node.attr
    if node.op == "param":
        return ("known", node.attr)
    if node.op == "length":
        assert isinstance(node.attr, Axis)
        return ("known", f"len_{node.attr.name}")
    if node.op == "start":
        assert isinstance(node.attr, Axis)
        return _start(node.attr)
    if node.op == "index":
        assert isinstance(node.attr, Index)
        return ("index", str(node.attr))
    if node.op == "read":
        rows = (_row(axis, at) for axis, at in zip(node.array.axes, args, strict=True))
        return ("read", node.array.name, *rows)
    return (node.op, *args)


def _row(axis: Axis, position: Any) -> Any:
    """Where a position stands in a tensor: counted from the start of the axis."""
    first = _start(axis)
    return position if first == 0 else ("sub", position, first)


def _start(axis: Axis) -> Any:
    if axis.low is not None:
        return _formula(axis.low)
    return (axis.shifted,) if axis.shifted else 0
