"""Words of C++ that every printer uses: types, literals, neutral numbers, two numbers joined."""

from __future__ import annotations

import math

from attnc.errors import UnsupportedError
from attnc.expressions.tree import Expr

INSTEAD = ("eager", "numpy")  # the backends that can run what kernels cannot
TYPES = {"real": "Acc", "int": "int64_t", "bool": "bool"}
# How values of single positions are kept in arrays.
KEPT = {"real": "Acc", "int": "Int", "bool": "bool"}
IDENTITY = {"sum": "0", "prod": "1", "max": "-INFINITE", "min": "INFINITE"}


def identity(monoid: str, kind: str) -> str:
    """The neutral number of a fold, as C++."""
    if kind == "int" and monoid in ("max", "min"):
        return f"{'-' if monoid == 'max' else ''}(int64_t(1) << 62)"
    return f"{TYPES[kind]}({IDENTITY[monoid]})"


def combined(monoid: str, left: str, right: str) -> str:
    """Two numbers of a fold joined."""
    if monoid in ("max", "min"):
        return f"{monoid}imum({left}, {right})"
    return f"{left} {'+' if monoid == 'sum' else '*'} {right}"


def literal(node: Expr) -> str:
    """A number as a typed C++ literal."""
    value = node.attr
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not -(2**62) <= value <= 2**62:
            raise UnsupportedError(f"the integer {value}", "cpu", INSTEAD)
        return f"int64_t({value})"
    assert isinstance(value, float)
    if math.isnan(value):
        return "std::numeric_limits<Acc>::quiet_NaN()"
    if math.isinf(value):
        return "INFINITE" if value > 0 else "(-INFINITE)"
    return f"Acc({value!r})"


def unwrapped(text: str) -> str:
    """The text without one pair of brackets around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if place == len(text) - 1 else text
    return text


def truth(value: bool) -> str:
    """A truth as C++."""
    return "true" if value else "false"


def listed(items: list[str], empty: str) -> str:
    """The items of an initializer, one of `empty` where there are none."""
    return ", ".join(items) or empty
