"""The value of an expression of the text in an environment.

Long chains of operators are walked with a loop; other nesting is bounded by the parser and by the
checker's own limits.
"""

from __future__ import annotations

import math
from dataclasses import replace

from attnc import syntax
from attnc.check import messages as m
from attnc.check.arrays import CLAUSES, linear, read_array, read_clause
from attnc.check.binders import caller_view
from attnc.check.bodies import CLAUSE_OF, ArrayEntity, Body, Entity, NumberEntity
from attnc.check.checker import Checker
from attnc.check.coordinates import coordinate
from attnc.check.functions import call_function, function_names
from attnc.check.operators import (
    axes_text,
    binary,
    compare,
    inverse,
    join,
    logical,
    negative,
    widen,
)
from attnc.check.parameters import parameter_at, read_local, read_parameter
from attnc.check.values import Environment, Value, conjunction, join_needs
from attnc.check.vectors import read_vector
from attnc.expressions import tree
from attnc.expressions.tree import call, number
from attnc.source import Span

CONSTANTS: dict[str, float | bool] = {
    "pi": math.pi,
    "inf": math.inf,
    "true": True,
    "false": False,
}


def evaluate(
    checker: Checker, node: syntax.Expression, env: Environment, raw: bool = False
) -> Value | None:
    """The value of an expression; None after an error, which is reported. `raw`: subscripts
    follow, so nothing left over is filled by name."""
    with checker.deeper(node.span):
        if isinstance(node, syntax.Binary):
            return _chain(checker, node, env)
        if isinstance(node, syntax.Name):
            return _name(checker, node, env, raw)
        if isinstance(node, syntax.Number):
            return Value(number(node.value, node.span))
        if isinstance(node, syntax.At):
            return _at(checker, node, env)
        if isinstance(node, (syntax.Call, syntax.Fold)):
            return call_function(checker, node, env, raw)
        if isinstance(node, syntax.Member):
            return _member(checker, node, (), env)
        if isinstance(node, syntax.Unary):
            return _unary(checker, node, env)
        if isinstance(node, syntax.Compare):
            return _compare(checker, node, env)
        if isinstance(node, syntax.Logic):
            return logical(checker, node, env)
        if isinstance(node, syntax.Not):
            value = evaluate(checker, node.operand, env)
            return None if value is None else inverse(checker, value, node.span)
        if isinstance(node, syntax.Default):
            return _default(checker, node, env)
        if isinstance(node, syntax.Tuple):
            return checker.report(m.tuple_outside(node.span))
        return checker.report(m.range_outside(node.span))


# ------------------------------------------------------------------------------------- operators


def _chain(checker: Checker, node: syntax.Binary, env: Environment) -> Value | None:
    """A chain of operators that group from the left, in a loop."""
    links: list[syntax.Binary] = []
    first: syntax.Expression = node
    while isinstance(first, syntax.Binary) and (first is node or first.op != "**"):
        links.append(first)
        first = first.left
        if node.op == "**":
            break
    value = evaluate(checker, first, env)
    failed = value is None
    for link in reversed(links):
        right = evaluate(checker, link.right, env)
        if failed or right is None or value is None:
            failed = True
            continue
        value = binary(checker, link.op, value, right, link.span)
        failed = value is None
    return None if failed else value


def _unary(checker: Checker, node: syntax.Unary, env: Environment) -> Value | None:
    value = evaluate(checker, node.operand, env)
    if value is None:
        return None
    found = negative(checker, value, node.span)
    return value if node.op == "+" and found is not None else found


def _compare(checker: Checker, node: syntax.Compare, env: Environment) -> Value | None:
    """A chain of comparisons: all of them hold."""
    parts: list[Value] = []
    failed = False
    left = evaluate(checker, node.operands[0], env)
    for op, operand in zip(node.ops, node.operands[1:], strict=True):
        if op == "in":
            part, right = _within(checker, node, left, operand, env)
        else:
            right = evaluate(checker, operand, env)
            part = None
            if left is not None and right is not None:
                part = compare(checker, op, left, right, node.span)
        failed |= part is None
        if part is not None:
            parts.append(part)
        left = right
    if failed:
        return None
    joined = join(checker, parts, node.span, "and")
    if joined is None:
        return None
    exprs, over, placed = joined
    needs = join_needs(*(part.needs for part in placed))
    return Value(conjunction(exprs, node.span), over, needs)


def _within(
    checker: Checker,
    node: syntax.Compare,
    left: Value | None,
    operand: syntax.Expression,
    env: Environment,
) -> tuple[Value | None, Value | None]:
    """`x in a .. b`: a <= x < b."""
    if not isinstance(operand, syntax.RangeExpr):
        return checker.report(m.range_wanted(operand.span)), None
    low = evaluate(checker, operand.low, env)
    high = evaluate(checker, operand.high, env)
    if left is None or low is None or high is None:
        return None, None
    above = compare(checker, "<=", low, left, node.span)
    below = compare(checker, "<", left, high, node.span)
    if above is None or below is None:
        return None, None
    joined = join(checker, (above, below), node.span, "in")
    if joined is None:
        return None, None
    exprs, over, placed = joined
    needs = join_needs(*(part.needs for part in placed))
    return Value(conjunction(exprs, node.span), over, needs), None


def _default(checker: Checker, node: syntax.Default, env: Environment) -> Value | None:
    """`e else d`: d where a read in e is outside its array or domain."""
    value = evaluate(checker, node.expr, env)
    fallback = evaluate(checker, node.fallback, env)
    if value is None or fallback is None:
        return None
    if (value.kind == "bool") != (fallback.kind == "bool"):
        return checker.report(m.branches_differ(node.span, value.kind, fallback.kind))
    plain = Value(value.expr, value.over)
    joined = join(checker, (plain, fallback), node.span, "else")
    if joined is None:
        return None
    if len(joined[1]) > len(value.over):
        text = axes_text(fallback)
        return checker.report(m.axes_do_not_meet(node.span, "else", axes_text(value), text))
    (expr, other), over, (_, placed) = joined
    if value.kind != "bool":
        expr, other = widen((expr, other))
    if any(need.native for need in value.needs):
        expr = call("default", expr, other, kind=expr.kind, span=node.span)
    written = conjunction(need.whole() for need in value.needs if not need.native)
    if written != tree.TRUE:
        expr = call("where", written, expr, other, span=node.span)
    return Value(expr, over, placed.needs)


# ----------------------------------------------------------------------------------------- names


def _name(checker: Checker, node: syntax.Name, env: Environment, raw: bool) -> Value | None:
    name = node.name
    bound = env.bounds.get(name)
    if bound is not None:
        return Value(replace(linear(bound.parts), span=node.span))
    if name in env.unknowns and env.frame is None:
        return env.unknowns[name]
    frame = env.frame
    if frame is not None:
        if name in frame.parameters:
            return read_parameter(checker, name, frame.parameters[name], env, raw)
        if name in frame.local:
            local = frame.local[name]
            if isinstance(local, ArrayEntity):
                return read_array(checker, local, (), env, env, node.span)
            return read_local(checker, name, env)
        if name in frame.formals:
            return checker.report(m.union_unbound(node.span, name))
    else:
        found = _entity(checker, node, env)
        if isinstance(found, NumberEntity):
            return None if found.expr is None else Value(replace(found.expr, span=node.span))
        if isinstance(found, ArrayEntity):
            return read_array(checker, found, (), env, env, node.span)
        if isinstance(found, Body):
            return read_clause(checker, found, name, (), env, env, node.span)
    if name in CONSTANTS:
        return Value(number(CONSTANTS[name], node.span))
    if name == "scale":
        return _scale(checker, node, env)
    return _unknown(checker, node, env)


def _entity(checker: Checker, node: syntax.Name, env: Environment) -> Entity | Body | None:
    """What a name of a body stands for: an entity, or the body whose score or weight it is."""
    for body in env.body.chain():
        found = body.entities.get(node.name)
        if found is not None:
            if found.what == "local of the step" and not env.step:
                checker.report(m.local_outside(node.span, node.name))
            found.used = True
            return found
        if node.name in CLAUSES and body.sources:
            return body
    return None


def _scale(checker: Checker, node: syntax.Name, env: Environment) -> Value | None:
    axis = env.body.find_axis("d")
    if axis is None or axis.form != "measured":
        return checker.report(m.scale_without_width(node.span))
    root = call("sqrt", call("to_real", tree.length(axis)))
    return Value(call("div", number(1.0), root, span=node.span))


def _unknown(checker: Checker, node: syntax.Name, env: Environment) -> Value | None:
    """The message for a name that means nothing here."""
    name = node.name
    if env.frame is not None:
        known = [*env.frame.parameters, *env.frame.local, *env.frame.formals, *CONSTANTS]
        if name in function_names(checker, env):
            return checker.report(m.function_as_value(node.span, name))
        return checker.report(m.unknown_name(node.span, name, known, {}))
    if env.body.find_axis(name) is not None:
        sees_key = any(name in source.names for body in env.body.chain() for source in body.sources)
        clause = CLAUSE_OF.get(env.place, "") if sees_key else ""
        return checker.report(m.free_index(node.span, name, env.place, sees_key, clause))
    if name in function_names(checker, env):
        return checker.report(m.function_as_value(node.span, name))
    places = {
        entity.name: f"{entity.what}, line {entity.span.line}"
        for body in env.body.chain()
        for entity in body.entities.values()
    }
    known = [*env.body.known_names(), *env.bounds, *CONSTANTS, "scale"]
    return checker.report(m.unknown_name(node.span, name, known, places))


# ----------------------------------------------------------------------------------- subscripts


def _at(checker: Checker, node: syntax.At, env: Environment) -> Value | None:
    base = node.base
    if isinstance(base, syntax.Member):
        return _member(checker, base, node.args, env, node.span)
    if isinstance(base, syntax.Name):
        return _named_at(checker, node, base, env)
    value = evaluate(checker, base, env, raw=True)
    if value is None:
        return None
    if not value.over:
        return checker.report(m.not_an_array(base.span, base.span.text))
    return read_vector(checker, value, node.args, env, node.span, base.span.text)


def _named_at(
    checker: Checker, node: syntax.At, base: syntax.Name, env: Environment
) -> Value | None:
    name, frame = base.name, env.frame
    if name in env.bounds:
        labels = checker.coordinates.get(env.bounds[name].axis, ())
        return checker.report(m.not_an_array(base.span, name, labels))
    if frame is not None and name in frame.parameters:
        closure = frame.parameters[name]
        if frame.formals:
            return parameter_at(checker, name, closure, node, env)
        target = resolve(base, env)
        if target is not None:
            return _read_target(checker, target, node.args, env, node.span)
        value = read_parameter(checker, name, closure, env, raw=True)
    elif frame is not None and name in frame.local:
        local = frame.local[name]
        if isinstance(local, ArrayEntity):
            return read_array(checker, local, node.args, env, env, node.span)
        if name in frame.texts and frame.formals and local is not None and not local.over:
            return parameter_at(checker, name, frame.texts[name].closure, node, env)
        value = read_local(checker, name, env)
    elif frame is not None:
        return _unknown(checker, base, env)
    else:
        found = _entity(checker, base, env)
        if isinstance(found, ArrayEntity):
            return read_array(checker, found, node.args, env, env, node.span)
        if isinstance(found, Body):
            return read_clause(checker, found, name, node.args, env, env, node.span)
        if found is not None or name in CONSTANTS or name == "scale":
            return checker.report(m.not_an_array(base.span, name))
        return _unknown(checker, base, env)
    if value is None:
        return None
    if not value.over:
        return checker.report(m.not_an_array(base.span, name))
    return read_vector(checker, value, node.args, env, node.span, name)


def resolve(
    node: syntax.Expression, env: Environment
) -> tuple[syntax.Expression, Environment] | None:
    """The expression that a name stands for, through parameters that are passed on: a name of a
    body or a member of one. None where it is none."""
    while env.frame is not None and isinstance(node, syntax.Name):
        closure = env.frame.parameters.get(node.name)
        if closure is None or node.name in env.bounds or closure.is_default:
            break
        node, env = closure.node, caller_view(env)
    return (node, env) if isinstance(node, (syntax.Name, syntax.Member)) else None


def _read_target(
    checker: Checker,
    target: tuple[syntax.Expression, Environment],
    args: tuple[syntax.Argument, ...],
    env: Environment,
    span: Span,
) -> Value | None:
    """Subscripts of a def's text on an array of its caller."""
    node, fill = target
    if isinstance(node, syntax.Member):
        return _member(checker, node, args, env, span, fill)
    assert isinstance(node, syntax.Name)
    found = None if fill.frame is not None else _entity(checker, node, fill)
    if isinstance(found, ArrayEntity):
        return read_array(checker, found, args, env, fill, span)
    if isinstance(found, Body):
        return read_clause(checker, found, node.name, args, env, fill, span)
    value = evaluate(checker, node, fill, raw=True)
    if value is None:
        return None
    if not value.over:
        return checker.report(m.not_an_array(span, node.name))
    return read_vector(checker, value, args, env, span, node.name)


def _member(
    checker: Checker,
    node: syntax.Member,
    args: tuple[syntax.Argument, ...],
    env: Environment,
    span: Span | None = None,
    fill: Environment | None = None,
) -> Value | None:
    """`i.y`, a coordinate; `block.lse`, an emit."""
    fill = env if fill is None else fill
    found = resolve(node.base, fill)
    name = node.name.name
    base, home = found if found is not None else (node.base, fill)
    if not isinstance(base, syntax.Name):
        return checker.report(m.member_of_what(node.span, node.base.span.text, name))
    bound = home.bounds.get(base.name)
    if bound is not None:
        if args:
            return checker.report(m.not_an_array(node.span, node.span.text))
        return coordinate(checker, bound, base.name, node, home)
    entity = None if home.frame is not None else _entity(checker, base, home)
    if isinstance(entity, Body):
        return checker.report(m.member_of_what(node.span, base.name, name))
    if entity is None:
        return _unknown(checker, base, home)
    emit = checker.emit(entity, node)
    if emit is None:
        return None
    return read_array(checker, emit, args, env, fill, span or node.span)
