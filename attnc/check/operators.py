"""Pointwise operators: kinds, and vectors that join where their left-over axes meet."""

from __future__ import annotations

from collections.abc import Sequence

from attnc import syntax
from attnc.check import messages as m
from attnc.check.checker import Checker
from attnc.check.values import Environment, Need, Value, conjunction, join_needs, negation
from attnc.expressions import tree
from attnc.expressions.index import Index
from attnc.expressions.tree import FALSE, TRUE, Expr, Kind, call, number, position
from attnc.source import Span

BINARY = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod"}
COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
WIDTH: dict[Kind, int] = {"bool": 0, "int": 1, "real": 2, "complex": 3}


def cast(expr: Expr, kind: Kind) -> Expr:
    """The expression as a wider kind of number."""
    if expr.kind == kind:
        return expr
    if kind == "real" and expr.op == "number" and isinstance(expr.attr, int):
        return number(float(expr.attr), expr.span)
    return call(f"to_{kind}", expr, span=expr.span)


def widen(exprs: Sequence[Expr], least: Kind = "int") -> list[Expr]:
    """The expressions, all of the widest kind among them."""
    kind = max((least, *(expr.kind for expr in exprs)), key=WIDTH.__getitem__)
    return [cast(expr, kind) for expr in exprs]


# -------------------------------------------------------------------------------------- joining


def matches(wanted: Index, among: Sequence[Index], taken: Sequence[Index] = ()) -> Index | None:
    """The index that stands for `wanted`: of its name and axis, else the first on its axis."""
    free = [index for index in among if index not in taken and index.axis is wanted.axis]
    same = [index for index in free if index.name == wanted.name]
    return same[0] if same else free[0] if free else None


def _placed(value: Value, over: Sequence[Index]) -> Value | None:
    """The value over indices of `over`; None where one of its axes is not there."""
    moves: dict[Index, Expr] = {}
    taken: list[Index] = []
    for index in value.over:
        found = matches(index, over, taken)
        if found is None:
            return None
        taken.append(found)
        if found is not index:
            moves[index] = position(found)
    return value.moved(moves)


def join(
    checker: Checker, values: Sequence[Value], span: Span, sign: str
) -> tuple[list[Expr], tuple[Index, ...], tuple[Value, ...]] | None:
    """The expressions of values over one tuple of left-over indices: the longest among them."""
    widest = max(values, key=lambda value: len(value.over))
    if all(not value.over for value in values):
        return [value.expr for value in values], (), tuple(values)
    placed = []
    for value in values:
        found = _placed(value, widest.over)
        if found is None:
            checker.report(m.axes_do_not_meet(span, sign, axes_text(widest), axes_text(value)))
            return None
        placed.append(found)
    return [value.expr for value in placed], widest.over, tuple(placed)


def axes_text(value: Value) -> str:
    """`a vector over d`, `a number`, for messages."""
    if not value.over:
        return "a number"
    names = ", ".join(index.name for index in value.over)
    return f"a vector over {names}" if len(value.over) == 1 else f"an array over ({names})"


def _joined(
    checker: Checker, values: Sequence[Value], span: Span, sign: str
) -> tuple[list[Expr], Value] | None:
    """The joined expressions, and a value to put the result in."""
    found = join(checker, values, span, sign)
    if found is None:
        return None
    exprs, over, placed = found
    return exprs, Value(TRUE, over, join_needs(*(value.needs for value in placed)))


# ------------------------------------------------------------------------------------ operators


def binary(checker: Checker, sign: str, left: Value, right: Value, span: Span) -> Value | None:
    """`left sign right` for an arithmetic operator; None after an error."""
    if sign == "@":
        return contract(checker, left, right, span)
    for value in (left, right):
        if value.kind == "bool":
            return checker.report(m.truth_in_arithmetic(value.expr.span or span, sign))
    if sign in ("//", "%") and {left.kind, right.kind} != {"int"}:
        return checker.report(m.whole_numbers_wanted(span, sign))
    joined = _joined(checker, (left, right), span, sign)
    if joined is None:
        return None
    exprs, frame = joined
    if sign in ("//", "%") and tree.is_number(exprs[1], 0):
        return checker.report(m.division_by_zero(span, sign))
    if sign == "**":
        return frame.with_expr(_power(exprs[0], exprs[1], span))
    exprs = widen(exprs, "real" if sign == "/" else "int")
    return frame.with_expr(call(BINARY[sign], *exprs, span=span))


def _power(base: Expr, exponent: Expr, span: Span) -> Expr:
    """Whole powers of whole numbers are whole; an int exponent is kept as one."""
    whole = exponent.op == "number" and isinstance(exponent.attr, int) and exponent.attr >= 0
    if exponent.kind == "int" and (whole or base.kind != "int"):
        return call("pow", base, exponent, kind=base.kind, span=span)
    base, exponent = widen((base, exponent), "real")
    return call("pow", base, exponent, span=span)


def negative(checker: Checker, value: Value, span: Span) -> Value | None:
    if value.kind == "bool":
        return checker.report(m.truth_in_arithmetic(span, "-"))
    expr = value.expr
    if expr.op == "number" and isinstance(expr.attr, (int, float)):
        return value.with_expr(number(-expr.attr, span))
    return value.with_expr(call("neg", expr, span=span))


def compare(checker: Checker, sign: str, left: Value, right: Value, span: Span) -> Value | None:
    kinds = {left.kind, right.kind}
    if "bool" in kinds and kinds != {"bool"}:
        return checker.report(m.truth_compared(span, sign))
    if kinds == {"bool"} and sign not in ("==", "!="):
        return checker.report(m.truth_compared(span, sign))
    if "complex" in kinds and sign not in ("==", "!="):
        return checker.report(m.complex_order(span, sign))
    joined = _joined(checker, (left, right), span, sign)
    if joined is None:
        return None
    exprs, frame = joined
    if kinds != {"bool"}:
        exprs = widen(exprs)
    return frame.with_expr(call(COMPARE[sign], *exprs, span=span))


def logic(checker: Checker, op: str, values: Sequence[Value], span: Span) -> Value | None:
    """`and`, `or` of conditions, needs of later ones already conditional."""
    for value in values:
        if value.kind != "bool":
            return checker.report(m.condition_wanted(value.expr.span or span, op, value.kind))
    joined = _joined(checker, values, span, op)
    if joined is None:
        return None
    exprs, frame = joined
    absorbing, neutral = (FALSE, TRUE) if op == "and" else (TRUE, FALSE)
    found: Expr | None = None
    for expr in exprs:
        if expr == neutral:
            continue
        if expr == absorbing:
            found = absorbing
            break
        found = expr if found is None else call(op, found, expr, span=span)
    return frame.with_expr(neutral if found is None else found)


def logical(checker: Checker, node: syntax.Logic, env: Environment) -> Value | None:
    """`a and b`: b matters only where a holds (`or`: where it does not)."""
    values: list[Value] = []
    known: list[Expr] = []
    failed = False
    for operand in node.operands:
        value = checker.evaluate(operand, env)
        if value is None:
            failed = True
            continue
        needs = tuple(need.under(tuple(known)) for need in value.needs)
        values.append(Value(value.expr, value.over, needs))
        if value.kind == "bool":
            known.append(value.expr if node.op == "and" else negation(value.expr))
            env = env.assume(known[-1])
    if failed:
        return None
    return logic(checker, node.op, values, node.span)


def inverse(checker: Checker, value: Value, span: Span) -> Value | None:
    if value.kind != "bool":
        return checker.report(m.condition_wanted(span, "not", value.kind))
    return value.with_expr(negation(value.expr))


def choose(checker: Checker, condition: Value, yes: Value, no: Value, span: Span) -> Value | None:
    """`where(condition, yes, no)`; the needs of the branches are already conditional."""
    if condition.kind != "bool":
        text = condition.expr.span or span
        return checker.report(m.condition_wanted(text, "where", condition.kind))
    if (yes.kind == "bool") != (no.kind == "bool"):
        return checker.report(m.branches_differ(span, yes.kind, no.kind))
    joined = _joined(checker, (condition, yes, no), span, "where")
    if joined is None:
        return None
    exprs, frame = joined
    branches = exprs[1:] if yes.kind == "bool" else widen(exprs[1:])
    if exprs[0] in (TRUE, FALSE):
        return frame.with_expr(branches[0] if exprs[0] == TRUE else branches[1])
    return frame.with_expr(call("where", exprs[0], *branches, span=span))


# --------------------------------------------------------------------------------------- vectors


def contract(checker: Checker, left: Value, right: Value, span: Span) -> Value | None:
    """`left @ right`: the sum over the last left-over axis of one and the first of the other."""
    for value in (left, right):
        if not value.over:
            return checker.report(m.vector_wanted(value.expr.span or span))
        if value.kind == "bool":
            return checker.report(m.truth_in_arithmetic(value.expr.span or span, "@"))
    last, first = left.over[-1], right.over[0]
    if last.axis is not first.axis:
        return checker.report(m.contraction(span, last.name, first.name))
    bound = checker.fresh(last.name, last.axis)
    one = left.moved({last: position(bound)})
    other = apart(checker, right.moved({first: position(bound)}), one.over)
    inside, kept = domain_of(join_needs(one.needs, other.needs), bound)
    product = call("mul", *widen((one.expr, other.expr)), span=span)
    total = checker.fold("sum", (bound,), conjunction(inside), product)
    return Value(total, (*one.over, *other.over), kept)


def apart(checker: Checker, value: Value, taken: Sequence[Index]) -> Value:
    """The value with other left-over indices than `taken`."""
    fresh = {index: checker.fresh(index.name, index.axis) for index in value.over if index in taken}
    if not fresh:
        return value
    moved = value.moved({old: position(new) for old, new in fresh.items()})
    return Value(moved.expr, tuple(fresh.get(i, i) for i in value.over), moved.needs)


def domain_of(needs: Sequence[Need], bound: Index) -> tuple[list[Expr], tuple[Need, ...]]:
    """Splits needs at a fold: what restricts a vector to its domain becomes the fold's condition;
    the rest must hold for all of it."""
    inside: list[Expr] = []
    kept: list[Need] = []
    for need in needs:
        if bound not in need.condition.free:
            kept.append(need)
        elif need.native:
            kept.append(need.under((), (bound,)))
        else:
            inside.append(need.whole())
    return inside, tuple(kept)


def outer(checker: Checker, left: Value, right: Value, span: Span) -> Value | None:
    """`outer(left, right)`: the product over the axes of both."""
    for value in (left, right):
        if value.kind == "bool":
            return checker.report(m.truth_in_arithmetic(value.expr.span or span, "outer"))
    right = apart(checker, right, left.over)
    product = call("mul", *widen((left.expr, right.expr)), span=span)
    return Value(product, (*left.over, *right.over), join_needs(left.needs, right.needs))
