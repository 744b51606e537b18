"""Calls: builtin functions, folds, defs and operators, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attnc import syntax
from attnc.check import folds
from attnc.check import messages as m
from attnc.check.arrays import length_of, start_of
from attnc.check.binders import caller_view
from attnc.check.bodies import ArrayEntity
from attnc.check.checker import Checker
from attnc.check.expansion import expand
from attnc.check.library import Library, parse_library
from attnc.check.operators import cast, choose, join, outer, widen
from attnc.check.values import Environment, Value, join_needs, negation
from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, call, number
from attnc.resources import library_names
from attnc.source import Span

REAL = ("exp", "log", "sqrt", "sin", "cos")  # of complex numbers too
REAL_ONLY = ("asin", "acos", "atan", "tanh", "erf")
WHOLE = ("floor", "ceil", "round")
ANY_NUMBER = ("abs", "sign", "re", "im", "conj", "stop")
SPECIAL = ("where", "outer", "len", "start", "grad", "random", "min", "max")
BUILTINS = (*REAL, *REAL_ONLY, *WHOLE, *ANY_NUMBER, *SPECIAL)


def library_of(env: Environment) -> Library:
    return env.frame.library if env.frame is not None else env.body.library


def function_names(checker: Checker, env: Environment) -> list[str]:
    """All functions that may be called at a place."""
    return [*BUILTINS, *folds.BUILTIN, *library_of(env).names()]


def call_function(
    checker: Checker, node: syntax.Call | syntax.Fold, env: Environment, raw: bool
) -> Value | None:
    """The value of a call or a fold; None after an error."""
    name = node.function.name
    library = library_of(env)
    definition = library.defs.get(name)
    if definition is not None:
        return expand(checker, node, definition, library.home(definition), env, raw)
    if isinstance(node, syntax.Fold):
        if name in folds.BUILTIN:
            return folds.fold(checker, node, env, raw)
        if name in BUILTINS:
            return checker.report(m.not_a_fold(node.span, name))
    if name in folds.BUILTIN and name not in BUILTINS:
        return checker.report(m.binders_missing(node.span, name, ["j"]))
    if isinstance(node, syntax.Call) and name in BUILTINS:
        return _builtin(checker, node, env)
    if name in library.operators:
        return checker.report(m.operator_in_expression(node.function.span, name))
    if name in library.broken:
        return None
    known = function_names(checker, env)
    return checker.report(m.unknown_function(node.function.span, name, known, _home_of(name)))


def _home_of(name: str) -> str:
    """The file of the library that has a def of this name, else nothing."""
    shipped = (
        one for one in library_names() if name in {d.name.name for d in parse_library(one).defs}
    )
    return next(shipped, "")


def _builtin(checker: Checker, node: syntax.Call, env: Environment) -> Value | None:
    name = node.function.name
    for arg in node.args:
        if isinstance(arg, syntax.Named):
            return checker.report(m.unknown_keyword(arg.name.span, arg.name.name, name, []))
    args = [arg for arg in node.args if not isinstance(arg, syntax.Named)]
    if name in SPECIALS:
        return SPECIALS[name](checker, node, args, env)
    if len(args) != 1:
        return checker.report(m.argument_count(node.span, name, "1", len(args)))
    value = checker.evaluate(args[0], env)
    if value is None:
        return None
    return _unary(checker, name, value, node.span)


def _unary(checker: Checker, name: str, value: Value, span: Span) -> Value | None:
    expr = value.expr
    if expr.kind == "bool" and name != "stop":
        return checker.report(m.number_wanted(span, name, "bool"))
    if expr.kind == "complex" and name in (*REAL_ONLY, *WHOLE, "sign"):
        return checker.report(m.number_wanted(span, name, "complex"))
    if name in (*REAL, *REAL_ONLY) and expr.kind == "int":
        expr = cast(expr, "real")
    if name in ("re", "im", "conj"):
        expr = cast(expr, "complex")
    if name in WHOLE and expr.kind == "int":
        return value
    return value.with_expr(call(name, expr, span=span))


# --------------------------------------------------------------------------------------- special


def _where(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    if len(args) != 3:
        return checker.report(m.argument_count(node.span, "where", "3", len(args)))
    condition = checker.evaluate(args[0], env)
    known = condition is not None and condition.kind == "bool"
    facts: list[tuple[Expr, ...]] = [(), ()]
    if condition is not None and known:
        facts = [(condition.expr,), (negation(condition.expr),)]
    branches: list[Value] = []
    for arg, fact in zip(args[1:], facts, strict=True):
        value = checker.evaluate(arg, env.assume(*fact))
        if value is not None:
            needs = tuple(need.under(fact) for need in value.needs)
            branches.append(Value(value.expr, value.over, needs))
    if condition is None or len(branches) < 2:
        return None
    return choose(checker, condition, branches[0], branches[1], node.span)


def _extreme(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    """`min(a, b, ...)` and `max`: pointwise."""
    name = node.function.name
    if len(args) < 2:
        return checker.report(m.argument_count(node.span, name, "2 or more", len(args)))
    found = [checker.evaluate(arg, env) for arg in args]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return None
    for value, arg in zip(values, args, strict=True):
        if value.kind in ("bool", "complex"):
            return checker.report(m.number_wanted(arg.span, name, value.kind))
    joined = join(checker, values, node.span, name)
    if joined is None:
        return None
    exprs, over, placed = joined
    exprs = widen(exprs)
    total = exprs[0]
    for expr in exprs[1:]:
        total = call(name, total, expr, span=node.span)
    return Value(total, over, join_needs(*(value.needs for value in placed)))


def _outer(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    if len(args) != 2:
        return checker.report(m.argument_count(node.span, "outer", "2", len(args)))
    left, right = (checker.evaluate(arg, env) for arg in args)
    if left is None or right is None:
        return None
    return outer(checker, left, right, node.span)


def axes_named(checker: Checker, node: syntax.Expression, env: Environment) -> list[Axis] | None:
    """The axes that a name stands for in `len` and `start`: of an index, a def's index, an axis.
    Several for a group."""
    while isinstance(node, syntax.Name):
        name, frame = node.name, env.frame
        bound = env.bounds.get(name)
        if bound is not None:
            return [part.axis for part in bound.parts]
        if frame is None:
            axis = env.body.find_axis(name)
            return None if axis is None else [axis]
        closure = frame.parameters.get(name)
        if closure is None:
            return None
        node, env = closure.node, caller_view(env)
    if isinstance(node, syntax.Member):
        return _coordinate_axis(checker, node, env)
    return None


def _coordinate_axis(checker: Checker, node: syntax.Member, env: Environment) -> list[Axis] | None:
    axes = axes_named(checker, node.base, env)
    if axes is None or len(axes) != 1 or axes[0].form != "product":
        return None
    labels = checker.coordinates.get(axes[0], [])
    if node.name.name not in labels:
        return None
    return [axes[0].parts[labels.index(node.name.name)]]


def _length(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    """`len(j)`; of a union the sum of the lengths."""
    if len(args) != 1:
        return checker.report(m.argument_count(node.span, "len", "1", len(args)))
    axes = axes_named(checker, args[0], env)
    if axes is None:
        known = env.body.known_names() if env.frame is None else list(env.frame.formals)
        return checker.report(m.length_of_what(args[0].span, args[0].span.text, known))
    total = length_of(axes[0])
    for axis in axes[1:]:
        total = call("mul", total, length_of(axis))
    return Value(total)


def _start(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    if len(args) != 1:
        return checker.report(m.argument_count(node.span, "start", "1", len(args)))
    axes = axes_named(checker, args[0], env)
    if axes is None or len(axes) != 1:
        known = env.body.known_names() if env.frame is None else list(env.frame.formals)
        return checker.report(m.length_of_what(args[0].span, args[0].span.text, known))
    return Value(start_of(axes[0]))


def _grad(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    """`grad(e, S)`: the derivative of a number by a state or local, over the axes of S."""
    if len(args) != 2:
        return checker.report(m.argument_count(node.span, "grad", "2", len(args)))
    value = checker.evaluate(args[0], env)
    target, home = args[1], env
    while home.frame is not None and isinstance(target, syntax.Name):
        closure = home.frame.parameters.get(target.name)
        if closure is None:
            break
        target, home = closure.node, caller_view(home)
    found = home.body.find(target.name) if isinstance(target, syntax.Name) else None
    if not isinstance(found, ArrayEntity) or found.what not in ("state", "local of the step"):
        return checker.report(m.gradient_by(args[1].span, args[1].span.text))
    by = checker.evaluate(target, home)
    if value is None or by is None:
        return None
    if value.kind != "real" or value.over:
        return checker.report(m.gradient_of(args[0].span, args[0].span.text))
    if by.kind not in ("real", "complex") or by.expr.op != "read":
        return checker.report(m.gradient_by(args[1].span, args[1].span.text))
    at = by.expr.args
    node_ = Expr("grad", (value.expr, *at), by.expr.attr, by.kind, node.span)
    return Value(node_, by.over, join_needs(value.needs, by.needs))


def _random(
    checker: Checker, node: syntax.Call, args: Sequence[syntax.Expression], env: Environment
) -> Value | None:
    """A uniform number: its counter is batch, head, row and key, numbered by its place."""
    if args:
        return checker.report(m.argument_count(node.span, "random", "no", len(args)))
    place = (node.span.source.name, node.span.start)
    chain = env.frame.call_sites if env.frame is not None else ()
    ordinal = checker.randoms.setdefault((*chain, place), len(checker.randoms))
    while env.frame is not None:
        env = caller_view(env)
    body = env.body.attention() or env.body
    keys = next((s.names for s in body.sources if all(name in env.bounds for name in s.names)), ())
    at = [_position(env, ("b",)), _position(env, ("h",))]
    at += [_position(env, body.row_names), _position(env, keys)]
    return Value(Expr("random", tuple(at), ordinal, "real", node.span))


def _position(env: Environment, names: Sequence[str]) -> Expr:
    """The positions of several indices as one number, row-major; 0 where none is in scope."""
    found: Expr | None = None
    for name in names:
        bound = env.bounds.get(name)
        if bound is None:
            continue
        if found is None:
            found = bound.at
        else:
            found = call("add", call("mul", found, length_of(bound.axis)), bound.at)
    return number(0) if found is None else found


Special = Callable[[Checker, syntax.Call, Sequence[syntax.Expression], Environment], "Value | None"]
SPECIALS: dict[str, Special] = {
    "where": _where,
    "min": _extreme,
    "max": _extreme,
    "outer": _outer,
    "len": _length,
    "start": _start,
    "grad": _grad,
    "random": _random,
}
assert set(SPECIALS) == set(SPECIAL)
