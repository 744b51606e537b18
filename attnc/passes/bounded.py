"""Which numbers lie between 0 and 1, by rules on operations: shares, products and mixtures of them.

    sigmoid(x)    exp(-softplus(x))    1 - p    p * q    max(p, q)    p + (1 - p) * q

does      proves; what it does not prove may still be so
needs     simplified expressions
does not  look at data, or use that an input is bounded
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from attnc.expressions.signs import is_positive, never_positive
from attnc.expressions.tree import Expr, is_number, number_of
from attnc.passes.factors import ONE, addends_of, factors_of, multiply
from attnc.passes.simplify import make


def is_share(expr: Expr) -> bool:
    """Whether a number is proved to lie between 0 and 1."""
    factors = factors_of(expr)
    if factors.negative or factors.below:
        return False
    return all(map(_is_one, factors.above))


def bound_of(expr: Expr) -> float:
    """A number that the size of an expression is proved not to exceed."""
    factors, bound = factors_of(expr), 1.0
    if factors.below:
        return math.inf
    for factor in factors.above:
        if is_number(factor):
            bound *= abs(number_of(factor))
        elif factor.op not in ("cos", "sin", "tanh", "erf") and not _is_one(factor):
            return math.inf
    return bound


def is_turn(a: Expr, b: Expr, c: Expr, d: Expr) -> bool:
    """Whether [a b; c d] is a rotation times a number between 0 and 1."""
    cosine, sine, other = factors_of(a), factors_of(b), factors_of(c)
    if a.digest != d.digest or cosine.negative or sine.negative == other.negative:
        return False
    if any(part.below for part in (cosine, sine, other)):
        return False
    if _digests(sine.above) != _digests(other.above):
        return False
    for place, factor in enumerate(sine.above):
        if factor.op == "sin":
            rest = (*sine.above[:place], *sine.above[place + 1 :])
            turned = (make("cos", factor.args[0]), *rest)
            if _digests(turned) == _digests(cosine.above):
                return all(map(is_share, rest))
    return False


def _digests(factors: Iterable[Expr]) -> list[bytes]:
    return sorted(factor.digest for factor in factors)


def _is_one(factor: Expr) -> bool:
    op, args = factor.op, factor.args
    if is_number(factor):
        return 0 <= number_of(factor) <= 1
    if op == "where":
        return all(map(is_share, args[1:]))
    if op in ("max", "min"):
        return all(map(is_share, args))
    if op == "sqrt":
        return is_share(args[0])
    if op == "pow":
        return is_share(args[0]) and is_positive(args[1])
    if op in ("add", "sub"):
        return _is_complement(factor) or _is_mixture(factor)
    return op == "sigmoid" or (op == "exp" and never_positive(args[0]))


def _is_complement(expr: Expr) -> bool:
    """1 - p."""
    return expr.op == "sub" and is_number(expr.args[0], 1) and is_share(expr.args[1])


def _is_mixture(expr: Expr) -> bool:
    """f * p + (1 - f) * q."""
    addends = addends_of(expr)
    if len(addends) != 2 or any(minus for _, minus in addends):
        return False
    first, second = (factors_of(addend) for addend, _ in addends)
    if any(part.negative or part.below for part in (first, second)):
        return False
    for place, one in enumerate(first.above):
        other = _complement(one).digest
        for at, two in enumerate(second.above):
            if two.digest == other:
                rest = (*first.above[:place], *first.above[place + 1 :])
                more = (*second.above[:at], *second.above[at + 1 :])
                return all(map(is_share, (one, multiply(rest), multiply(more))))
    return False


def _complement(expr: Expr) -> Expr:
    """1 - p as the simplifier has it."""
    return make("sub", ONE, expr)
