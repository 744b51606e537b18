"""Product axes: the coordinates of an index."""

from __future__ import annotations

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import length_of, start_of
from attnc.check.checker import Checker
from attnc.check.values import Bound, Environment, Value
from attnc.expressions import tree
from attnc.expressions.tree import Expr, call


def coordinate(
    checker: Checker, bound: Bound, name: str, node: syntax.Member, env: Environment
) -> Value | None:
    """`i.y`: the position divided by the lengths of the axes after y, modulo the length of y (of
    the first axis: as it is)."""
    del env
    axis = bound.axis
    if len(bound.parts) != 1 or axis.form != "product":
        return checker.report(m.no_coordinates(node.span, name, axis.name))
    names = [part.name for part in axis.parts]
    labels = checker.coordinates.get(axis, names)
    if node.name.name not in labels:
        return checker.report(m.no_such_coordinate(node.name.span, node.name.name, name, labels))
    place = labels.index(node.name.name)
    stride: Expr | None = None
    for part in axis.parts[place + 1 :]:
        stride = length_of(part) if stride is None else call("mul", stride, length_of(part))
    found = bound.at if stride is None else call("floordiv", bound.at, stride)
    if place > 0:
        found = call("mod", found, length_of(axis.parts[place]))
    low = start_of(axis.parts[place])
    checker.spans_of[found.digest] = (found, length_of(axis.parts[place]))
    checker.labels[found.digest] = node.span.text
    if not tree.is_number(low, 0):
        found = call("add", found, low)
    return Value(found)
