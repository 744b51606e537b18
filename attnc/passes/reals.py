"""Comparisons of reals over a tile: what `regions` may say about `abs(j - p[i]) <= D`.

Does: bounds a difference of reals term by term, outward by more than any order of rounding in
float32 can move it.
Needs: that the run-time minimum and maximum of a real Summary are both NaN when an entry is NaN:
every test here is written so that NaN says "possible". Does not: bound products or functions of
reals that tie both indices of a pair; those are unknown.
"""

from __future__ import annotations

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, call, number
from attnc.passes.integers import both, negation, polynomial
from attnc.passes.intervals import Ranges

SLACK = 2.0**-19  # relative to the sum of the magnitudes: float32 rounds by 2**-24 an operation
LARGEST = 1e30  # of a symbolic factor: beyond it 0 * inf may stand in a corner

Sides = tuple[Expr, Expr]  # low and high


def possible_comparison(comparison: Expr, holds: bool, ranges: Ranges) -> Expr | None:
    """Whether a pair of the tile can meet (or fail, `holds` false) a comparison of reals; None:
    unknown."""
    left, right = comparison.args
    terms = _difference(left, right, ranges)
    if terms is None:
        return None
    low, high = (_total([sides[place] for sides in terms]) for place in (0, 1))
    slack = call("mul", number(SLACK), _total([_magnitude(sides) for sides in terms]))
    zero = number(0.0)
    above = call("gt", call("sub", low, slack), zero)  # surely left > right
    beneath = call("lt", call("add", high, slack), zero)
    if comparison.op in ("eq", "ne"):
        meets = (comparison.op == "eq") == holds
        return both(negation(above), negation(beneath)) if meets else None
    smaller = comparison.op in ("lt", "le")
    return negation(above if smaller == holds else beneath)


def _difference(left: Expr, right: Expr, ranges: Ranges) -> list[Sides] | None:
    """The bounds of the terms of left - right, those of one index together."""
    tile = ranges.registry.tile
    apart: dict[Index | None, list[tuple[Expr, int]]] = {}
    stack = [(left, 1), (right, -1)]
    found: list[Sides] = []
    while stack:
        part, sign = stack.pop()
        if part.op == "add" and part.kind == "real":
            stack.extend((arg, sign) for arg in part.args)
        elif part.op == "sub" and part.kind == "real":
            stack += [(part.args[0], sign), *((arg, -sign) for arg in part.args[1:])]
        elif part.op == "neg" and part.kind == "real":
            stack.append((part.args[0], -sign))
        else:
            free = part.free & tile
            key = next(iter(free)) if len(free) == 1 else None
            apart.setdefault(key, []).append((part, sign))
    for key, terms in apart.items():
        if key is not None and (len(terms) > 1 or _integer(terms[0][0]) is None):
            found.append(_summed(terms, ranges))
            continue
        for part, sign in terms:
            sides = _bounds(part, ranges)
            if sides is None:
                return None
            found.append(sides if sign > 0 else (call("neg", sides[1]), call("neg", sides[0])))
    return found


def _summed(terms: list[tuple[Expr, int]], ranges: Ranges) -> Sides:
    """Terms of one index: their minimum and maximum at run time."""
    result: Expr | None = None
    for part, sign in terms:
        if result is None:
            result = part if sign > 0 else call("neg", part)
        else:
            result = call("add" if sign > 0 else "sub", result, part)
    assert result is not None
    real = result if result.kind == "real" else call("to_real", result)
    return ranges.registry.summary(real)


def _bounds(part: Expr, ranges: Ranges) -> Sides | None:
    """Bounds of a term that is free of the pair, an integer, or such a term times the other."""
    tile = ranges.registry.tile
    if not part.free & tile:
        here = part if part.kind == "real" else call("to_real", part)
        return here, here
    whole = _integer(part)
    if whole is not None:
        inner = ranges.of(polynomial(whole))
        if inner.low is None or inner.high is None:
            return None
        return call("to_real", inner.low), call("to_real", inner.high)
    if part.op == "mul" and len(part.args) == 2:
        fixed = [arg for arg in part.args if not arg.free & tile]
        moving = [arg for arg in part.args if arg.free & tile]
        if len(moving) == 1:
            return _scaled(_bounds(moving[0], ranges), fixed[0], "mul", ranges)
    if part.op == "div" and not part.args[1].free & tile:
        return _scaled(_bounds(part.args[0], ranges), part.args[1], "div", ranges)
    return None


def _integer(part: Expr) -> Expr | None:
    """The integer that a real term is."""
    if part.op == "to_real":
        part = part.args[0]
    return part if part.kind == "int" else None


def _scaled(sides: Sides | None, factor: Expr, op: str, ranges: Ranges) -> Sides | None:
    if sides is None:
        return None
    real = factor if factor.kind == "real" else call("to_real", factor)
    size = call("abs", real)
    moderate = call("le", size, number(LARGEST))
    if op == "div":
        moderate = both(moderate, call("ge", size, number(1 / LARGEST)))
    if real.op != "number":
        ranges.registry.required[moderate.digest] = moderate
    corners = [call(op, side, real) for side in sides]
    return call("min", *corners), call("max", *corners)


def _total(parts: list[Expr]) -> Expr:
    result = parts[0]
    for part in parts[1:]:
        if part.op == "neg":
            result = call("sub", result, part.args[0])
        else:
            result = call("add", result, part)
    return result


def _magnitude(sides: Sides) -> Expr:
    low, high = (call("abs", side.args[0] if side.op == "neg" else side) for side in sides)
    return low if low == high else call("add", low, high)
