"""`solve x in a .. b: left == right`: one number, given by an equation."""

from __future__ import annotations

from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.checker import Checker
from attnc.check.operators import axes_text, cast
from attnc.check.values import Environment, Value, join_needs
from attnc.expressions.tree import Expr, call


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
    expr = Expr("solve", args, unknown.attr, "real", node.span)
    return Value(expr, (), join_needs(*(value.needs for value in values)))


def _mentions(left: Expr, right: Expr, unknown: Expr) -> bool:
    from attnc.expressions.tree import postorder

    return any(node == unknown for node in postorder(left, right))


def _with_unknown(env: Environment, name: str, value: Value) -> Environment:
    """The environment in which the unknown is in scope."""
    if env.frame is not None:
        frame = replace(env.frame, local={**env.frame.local, name: value})
        return replace(env, frame=frame)
    return replace(env, unknowns={**env.unknowns, name: value})
