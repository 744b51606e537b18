"""Tiles of a grid as boxes of coordinates.

A tile is a range of positions; of a grid in row-major order it is the end of a row, whole rows,
and the beginning of a row. Coordinates bounded one by one over the whole tile would be their
bounding box, which holds every column as soon as the tile crosses a row: the three parts are boxes
themselves.

Does: finds `i // w` with `i % w` in a formula, and says what the parts of a tile know
about them. Needs: nothing. Does not: split further strides (a frame that ends inside a tile of
rows).
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, number, position, postorder
from attnc.passes.integers import (
    Polynomial,
    add,
    below,
    both,
    greatest,
    least,
    mul,
    quotient,
    remainder,
    sub,
    whole,
)
from attnc.passes.intervals import Ranges, Registry

Sides = tuple[Expr, Expr]  # inclusive


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tile: the condition under which there is one, and ranges of expressions in it."""

    exists: Expr
    facts: tuple[tuple[Expr, Expr, Expr], ...] = ()

    def teach(self, ranges: Ranges) -> None:
        for atom, low, high in self.facts:
            ranges.learn(Polynomial({(atom,): 1}), low, high)


SHORTEST = 8  # a number below it is no width of a grid, but a dilation
ONE = number(1)
WHOLE = (Box(TRUE),)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a range that keeps to one row, or to whole rows."""

    exists: Expr
    value: Sides
    row: Sides
    column: Sides


def boxes(visible: Expr, index: Index, registry: Registry) -> tuple[Box, ...]:
    """The boxes of a tile along one index of the pair; one, where the formula has no grid on it."""
    found = _rows(visible, position(index), index, registry)
    if found is None:
        return WHOLE
    row, column = found
    at, width = row.args
    registry.positive(width)
    corners = Ranges(registry).atom(at)
    assert corners.low is not None and corners.high is not None
    result: list[Box] = []
    for part in _parts(corners.low, corners.high, width):
        frames = _wrapped(visible, row, registry)
        if frames is None or part.row[0] == part.row[1]:
            facts = ((at, *part.value), (row, *part.row), (column, *part.column))
            result.append(Box(part.exists, facts))
            continue
        registry.positive(frames.args[1])
        for inner in _parts(*part.row, frames.args[1]):
            values = mul(inner.value[0], width), sub(mul(add(inner.value[1], ONE), width), ONE)
            facts = ((at, *values), (row, *inner.value), (column, *part.column))
            exists = both(part.exists, inner.exists)
            result.append(Box(exists, (*facts, (frames, *inner.column))))
    return tuple(result)


def _parts(low: Expr, high: Expr, width: Expr) -> tuple[_Part, ...]:
    """The range low .. high as the end of a row, whole rows, and the beginning of one."""
    zero, last_column, extent = number(0), sub(width, ONE), sub(high, low)
    first, last = quotient(low, width), quotient(high, width)
    begin, end = remainder(low, width), remainder(high, width)
    second, before = add(first, ONE), sub(last, ONE)
    next_row, last_row = mul(second, width), mul(last, width)
    right, left = least((add(begin, extent), last_column)), greatest((sub(end, extent), zero))
    head = _Part(TRUE, (low, least((high, sub(next_row, ONE)))), (first, first), (begin, right))
    body = _Part(
        below(second, last), (next_row, sub(last_row, ONE)), (second, before), (zero, last_column)
    )
    tail = _Part(below(first, last), (greatest((low, last_row)), high), (last, last), (left, end))
    return head, body, tail


def _rows(visible: Expr, at: Expr, index: Index, registry: Registry) -> tuple[Expr, Expr] | None:
    """`at // w` and `at % w`, both in the formula, w free of the pair and no mere dilation."""
    quotients: dict[bytes, Expr] = {}
    remainders: dict[bytes, Expr] = {}
    for node in postorder(visible):
        if node.op not in ("floordiv", "mod") or node.args[0] != at:
            continue
        divisor = node.args[1]
        long = index.axis.form == "product" or (whole(divisor) or 0) >= SHORTEST
        if long and whole(divisor) != 1 and not divisor.free & registry.tile:
            kept = quotients if node.op == "floordiv" else remainders
            kept[divisor.digest] = node
    for key, column in remainders.items():
        if key in quotients:
            return quotients[key], column
    return None


def _wrapped(visible: Expr, row: Expr, registry: Registry) -> Expr | None:
    """`row % h` in the formula: a grid of frames of h rows."""
    for node in postorder(visible):
        wraps = node.op == "mod" and node.args[0] == row and whole(node.args[1]) != 1
        if wraps and not node.args[1].free & registry.tile:
            return node
    return None
