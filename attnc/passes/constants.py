"""Constants of expressions: evaluating them, and what monoids begin with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attnc.expressions.tree import Expr, Kind, call, number

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453

LARGEST = 1 << 63


def evaluate(node: Expr) -> Expr | None:
    """The number that a pointwise node over numbers is, or None: for what needs a run-time check
    (division by zero, overflow, a pole), and for floats that would lose their sign or NaN."""
    compute = _COMPUTE.get(node.op)
    if compute is None or node.kind == "complex":
        return None
    try:
        found = compute(*(arg.attr for arg in node.args))
    except (ArithmeticError, ValueError, TypeError):
        return None
    return _number_of(node.kind, found)


def _number_of(kind: Kind, found: Any) -> Expr | None:
    if kind == "bool":
        return number(bool(found))
    if kind == "int":
        whole = isinstance(found, int) and -LARGEST <= found < LARGEST
        return number(int(found)) if whole else None
    if isinstance(found, complex):
        return None
    return number(float(found))


def _divide(a: float, b: float) -> float:
    if b == 0:
        raise ZeroDivisionError
    return a / b


def _whole(divide: Callable[[int, int], int]) -> Callable[[Any, Any], int]:
    def compute(a: Any, b: Any) -> int:
        if not (isinstance(a, int) and isinstance(b, int)):
            raise TypeError
        return divide(a, b)

    return compute


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and (b < 0 or b > 64):
        raise ValueError
    return a**b


def _compare_extremum(larger: bool) -> Callable[[Any, Any], Any]:
    def compute(a: Any, b: Any) -> Any:
        if a != a or b != b:
            raise ValueError  # NaN
        return max(a, b) if larger else min(a, b)

    return compute


_COMPUTE: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _divide,
    "floordiv": _whole(lambda a, b: a // b),
    "mod": _whole(lambda a, b: a % b),
    "pow": _power,
    "neg": lambda a: -a,
    "min": _compare_extremum(False),
    "max": _compare_extremum(True),
    "abs": abs,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "where": lambda c, a, b: a if c else b,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "sin": math.sin,
    "cos": math.cos,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "tanh": math.tanh,
    "erf": math.erf,
    "floor": math.floor,
    "ceil": math.ceil,
    "to_real": float,
    "to_int": int,
}


def identity(monoid: str, kind: Kind) -> Expr:
    """What a fold over nothing is. Maxima and minima over nothing are infinite, so real."""
    if monoid == "sum":
        return number(0 if kind == "int" else 0.0)
    if monoid == "prod":
        return number(1 if kind == "int" else 1.0)
    return number(-math.inf if monoid == "max" else math.inf)


def to_real(expr: Expr) -> Expr:
    """An int widened to a real; reals as they are."""
    if expr.kind != "int":
        return expr
    if expr.op == "number" and isinstance(expr.attr, int):
        return number(float(expr.attr))
    return call("to_real", expr)
