"""What sign an expression has, wherever it is not NaN: by rules on its operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

from attnc.expressions.tree import Expr, postorder


@dataclass(frozen=True, slots=True)
class Sign:
    """Which of negative, zero and positive values an expression may take."""

    negative: bool = True
    zero: bool = True
    positive: bool = True


ANY = Sign()
ABOVE = Sign(negative=False, zero=False)
NOT_BELOW = Sign(negative=False)


def sign_of(expr: Expr) -> Sign:
    """A sign that holds for every value of the expression's leaves."""
    known: dict[bytes, Sign] = {}
    for node in postorder(expr):
        known[node.digest] = _step(node, [known[arg.digest] for arg in node.args])
    return known[expr.digest]


def is_positive(expr: Expr) -> bool:
    """Whether the expression is above zero."""
    return sign_of(expr) == ABOVE


def is_negative(expr: Expr) -> bool:
    """Whether the expression is below zero."""
    sign = sign_of(expr)
    return sign.negative and not sign.zero and not sign.positive


def never_negative(expr: Expr) -> bool:
    """Whether the expression is zero or more."""
    return not sign_of(expr).negative


def never_positive(expr: Expr) -> bool:
    """Whether the expression is zero or less."""
    return not sign_of(expr).positive


def _step(node: Expr, args: list[Sign]) -> Sign:
    op = node.op
    if op == "number" and not isinstance(node.attr, bool):
        assert isinstance(node.attr, (int, float))
        value = float(node.attr)
        return ANY if math.isnan(value) else Sign(value < 0, value == 0, value > 0)
    if op == "length":
        return NOT_BELOW
    if op in ("exp", "exp2", "abs", "softplus", "sigmoid", "sqrt", "acos"):
        return NOT_BELOW  # they may round to zero
    if op in ("to_real", "sign", "stop", "asin", "atan", "tanh", "erf"):
        return args[0]
    if op == "neg":
        return Sign(args[0].positive, args[0].zero, args[0].negative)
    if op in ("mul", "div"):
        return reduce(lambda a, b: _product(a, b, op == "div"), args)
    if op == "add":
        return reduce(_sum, args)
    if op == "sub" and _is_gap(*node.args):
        return Sign(positive=False)
    if op == "sub":
        return _sum(args[0], Sign(args[1].positive, args[1].zero, args[1].negative))
    if op == "where":
        return _either(args[1], args[2])
    if op in ("max", "min"):
        return reduce(lambda a, b: _extremum(op, a, b), args)
    if op == "pow":
        return _power(node, args[0])
    if op == "fold":
        return _fold(node, args[1])
    return ANY


def _is_gap(first: Expr, second: Expr) -> bool:
    """x - max(x, y), or min(x, y) - x."""
    among = second.op == "max" and first in second.args
    return among or (first.op == "min" and second in first.args)


def _product(a: Sign, b: Sign, quotient: bool) -> Sign:
    return Sign(
        (a.negative and b.positive) or (a.positive and b.negative),
        a.zero or b.zero or quotient or not (a == ABOVE and b == ABOVE),
        (a.positive and b.positive) or (a.negative and b.negative),
    )


def _sum(a: Sign, b: Sign) -> Sign:
    mixed = (a.negative and b.positive) or (a.positive and b.negative)
    zero = mixed or (a.zero and b.zero)
    return Sign(a.negative or b.negative, zero, a.positive or b.positive)


def _either(a: Sign, b: Sign) -> Sign:
    return Sign(a.negative or b.negative, a.zero or b.zero, a.positive or b.positive)


def _extremum(op: str, a: Sign, b: Sign) -> Sign:
    both = _either(a, b)
    if op == "max":
        return Sign(
            a.negative and b.negative,
            both.zero and ABOVE not in (a, b),
            both.positive,
        )
    return Sign(both.negative, both.zero, a.positive and b.positive)


def _power(node: Expr, base: Sign) -> Sign:
    power = node.args[1]
    even = power.op == "number" and isinstance(power.attr, (int, float)) and power.attr % 2 == 0
    return NOT_BELOW if even or not base.negative else ANY


def _fold(node: Expr, body: Sign) -> Sign:
    if node.monoid in ("sum", "prod") and not body.negative:
        return NOT_BELOW
    return ANY
