"""Operations on complex numbers as operations on their parts, a rule for each operation."""

from __future__ import annotations

from collections.abc import Callable

from attnc.errors import UnsupportedError
from attnc.expressions.tree import Expr, call, is_number, number, number_of

Pair = tuple[Expr, Expr | None]  # the imaginary part None where it is 0
ZERO = number(0.0)
MOST_FACTORS = 64

WORDS = {
    "log": "the logarithm of a complex number",
    "fold": "a product of complex numbers over an axis",
    "grad": "the derivative by a complex state",
    "pow": "a power of a complex number that is no written whole number",
}


def unknown(what: str, node: Expr) -> UnsupportedError:
    """What no kernel has, and where it is written."""
    place = f" ({node.span})" if node.span else ""
    return UnsupportedError(f"complex: {what}{place}", "kernel", ("eager", "numpy"))


def _each(op: str) -> Callable[..., Pair]:
    def rule(*args: Pair) -> Pair:
        re = call(op, *(one for one, _ in args))
        if all(im is None for _, im in args):
            return re, None
        return re, call(op, *(ZERO if im is None else im for _, im in args))

    return rule


def _sum(*args: Pair) -> Pair:
    total = args[0]
    for one in args[1:]:
        im = one[1] if total[1] is None else total[1] if one[1] is None else None
        if total[1] is not None and one[1] is not None:
            im = call("add", total[1], one[1])
        total = call("add", total[0], one[0]), im
    return total


def _difference(left: Pair, right: Pair) -> Pair:
    return _sum(left, _negative(right))


def _negative(one: Pair) -> Pair:
    return call("neg", one[0]), None if one[1] is None else call("neg", one[1])


def _product(*args: Pair) -> Pair:
    total = args[0]
    for right in args[1:]:
        total = _times(total, right)
    return total


def _times(left: Pair, right: Pair) -> Pair:
    (a, b), (c, d) = left, right
    re = call("mul", a, c)
    if b is None or d is None:
        im = call("mul", a, d) if d is not None else None if b is None else call("mul", b, c)
        return re, im
    im = call("add", call("mul", a, d), call("mul", b, c))
    return call("sub", re, call("mul", b, d)), im


def _size(one: Pair) -> Expr:
    """The larger of both sizes, a number to which nothing is differentiated: quotients by it do
    not overflow."""
    assert one[1] is not None
    return call("stop", call("max", call("abs", one[0]), call("abs", one[1])))


def _quotient(left: Pair, right: Pair) -> Pair:
    c, d = right
    if d is None:
        return call("div", left[0], c), None if left[1] is None else call("div", left[1], c)
    m = _size(right)
    re, im = call("div", c, m), call("div", d, m)
    total = call("mul", call("add", call("mul", re, re), call("mul", im, im)), m)
    a, b = _times(left, (re, call("neg", im)))
    assert b is not None
    return call("div", a, total), call("div", b, total)


def _absolute(one: Pair) -> Pair:
    a, b = one
    if b is None:
        return call("abs", a), None
    m = _size(one)
    x, y = call("div", a, m), call("div", b, m)
    long = call("mul", m, call("sqrt", call("add", call("mul", x, x), call("mul", y, y))))
    return call("where", call("eq", m, ZERO), ZERO, long), None


def _exponential(one: Pair) -> Pair:
    a, b = one
    size = call("exp", a)
    if b is None:
        return size, None
    return call("mul", size, call("cos", b)), call("mul", size, call("sin", b))


def _root(one: Pair) -> Pair:
    """The root whose real part is 0 or more."""
    a, b = one[0], ZERO if one[1] is None else one[1]
    size = call("add", _absolute((a, b))[0], call("abs", a))
    t = call("sqrt", call("mul", number(0.5), size))
    half = call("div", b, call("mul", number(2.0), t))
    right = call("ge", a, ZERO)
    up = call("where", call("lt", b, ZERO), call("neg", t), t)
    re = call("where", right, t, call("abs", half))
    im = call("where", right, half, up)
    none = call("eq", t, ZERO)
    return call("where", none, ZERO, re), call("where", none, ZERO, im)


def _hyperbolic(b: Expr) -> tuple[Expr, Expr]:
    """cosh, sinh."""
    up = call("add", call("exp", b), call("exp", call("neg", b)))
    cosh = call("mul", number(0.5), up)
    return cosh, call("mul", call("tanh", b), cosh)


def _sine(one: Pair) -> Pair:
    a, b = one
    if b is None:
        return call("sin", a), None
    cosh, sinh = _hyperbolic(b)
    return call("mul", call("sin", a), cosh), call("mul", call("cos", a), sinh)


def _cosine(one: Pair) -> Pair:
    a, b = one
    if b is None:
        return call("cos", a), None
    cosh, sinh = _hyperbolic(b)
    return call("mul", call("cos", a), cosh), call("neg", call("mul", call("sin", a), sinh))


def _choice(condition: Pair, yes: Pair, no: Pair) -> Pair:
    re = call("where", condition[0], yes[0], no[0])
    if yes[1] is None and no[1] is None:
        return re, None
    parts = (ZERO if im is None else im for im in (yes[1], no[1]))
    return re, call("where", condition[0], *parts)


def _same(op: str, joined: str) -> Callable[[Pair, Pair], Pair]:
    def rule(left: Pair, right: Pair) -> Pair:
        ims = (ZERO if im is None else im for im in (left[1], right[1]))
        return call(joined, call(op, left[0], right[0]), call(op, *ims)), None

    return rule


def power(node: Expr, args: list[Pair]) -> Pair:
    """A whole power by products."""
    base, exponent = args[0], node.args[1]
    while exponent.op in ("to_real", "to_complex"):
        exponent = exponent.args[0]
    whole = is_number(exponent) and number_of(exponent) == int(number_of(exponent))
    if not whole or abs(number_of(exponent)) > MOST_FACTORS:
        raise unknown(WORDS["pow"], node)
    count = int(number_of(exponent))
    total: Pair = (number(1.0), None)
    square, rest = base, abs(count)
    while rest:
        if rest % 2:
            total = square if total == (number(1.0), None) else _times(total, square)
        square = _times(square, square)
        rest //= 2
    return _quotient((number(1.0), None), total) if count < 0 else total


RULES: dict[str, Callable[..., Pair]] = {
    "to_complex": lambda one: (_as_real(one[0]), None),
    "add": _sum,
    "sub": _difference,
    "neg": _negative,
    "mul": _product,
    "div": _quotient,
    "exp": _exponential,
    "sqrt": _root,
    "sin": _sine,
    "cos": _cosine,
    "abs": _absolute,
    "re": lambda one: (one[0], None),
    "im": lambda one: (ZERO if one[1] is None else one[1], None),
    "conj": lambda one: (one[0], None if one[1] is None else call("neg", one[1])),
    "stop": _each("stop"),
    "where": _choice,
    "eq": _same("eq", "and"),
    "ne": _same("ne", "or"),
}


def _as_real(expr: Expr) -> Expr:
    if expr.kind == "real":
        return expr
    return number(number_of(expr)) if is_number(expr) else call("to_real", expr)
