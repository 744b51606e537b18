"""`solve x in a .. b: left == right`: one number, given by an equation."""

from __future__ import annotations

from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.checker import Checker
from attnc.check.operators import axes_text, cast
from attnc.check.values import Environment, Value, join_needs
from attnc.expressions.signs import is_negative, is_positive
from attnc.expressions.tree import Expr, call, postorder, rewrite


def solve_value(checker: Checker, node: syntax.Solve, env: Environment) -> Value | None:
    """The value of the unknown; None after an error."""
    name = node.name.name
    unknown = Expr("unknown", (), checker.unique(f"{name}"), "real", node.name.span)
    inner = _with_unknown(env, name, Value(unknown))
    ends = [checker.evaluate(end, env) for end in (node.low, node.high)]
    sides = [checker.evaluate(side, inner) for side in (node.left, node.right)]
    values = [value for value in (*ends, *sides) if value is not None]
    if len(values) < 4:
        return None
    for value, part in zip(values, (node.low, node.high, node.left, node.right), strict=True):
        if value.kind not in ("int", "real") or value.over:
            return checker.report(m.solve_number(part.span, part.span.text, axes_text(value)))
    low, high = (value.expr for value in values[:2])
    if checker.prove(env.facts, call("lt", high, low)):
        return checker.report(
            m.solve_bracket(node.span, name, node.low.span.text, node.high.span.text)
        )
    if not _mentions(values[2].expr, values[3].expr, unknown):
        return checker.report(m.solve_without_unknown(node.span, name))
    args = tuple(cast(value.expr, "real") for value in values)
    texts = (node.left.span.text, node.right.span.text)
    where = uncrossed(args, unknown)
    if where is not None:
        left, right = texts if where[1] else texts[::-1]
        return checker.report(m.solve_infeasible(node.span, name, where[0], left, right))
    expr = Expr("solve", args, unknown.attr, "real", node.span)
    return Value(expr, (), join_needs(*(value.needs for value in values)))


def uncrossed(args: tuple[Expr, ...], unknown: Expr) -> tuple[str, bool] | None:
    """Where the sides of (low, high, left, right) cannot meet, by their signs, and whether the left
    one is the larger there; None where nothing shows it."""
    low, high, left, right = args
    gap = call("sub", left, right)

    def put(end: Expr) -> Expr:
        return rewrite(gap, lambda node: end if node == unknown else node)

    for where, gaps in (("everywhere", (gap,)), ("at both ends", (put(low), put(high)))):
        for larger, test in ((True, is_positive), (False, is_negative)):
            if all(map(test, gaps)):
                return where, larger
    return None


def _mentions(left: Expr, right: Expr, unknown: Expr) -> bool:
    return any(node == unknown for node in postorder(left, right))


def _with_unknown(env: Environment, name: str, value: Value) -> Environment:
    """The environment in which the unknown is in scope."""
    if env.frame is not None:
        frame = replace(env.frame, local={**env.frame.local, name: value})
        return replace(env, frame=frame)
    return replace(env, unknowns={**env.unknowns, name: value})
