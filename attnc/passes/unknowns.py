"""What stands for the unknown of a solve: the arrays that its rounds carry (see solve)."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position, read
from attnc.passes.frame import Frame
from attnc.passes.hoist import Names


@dataclass(frozen=True)
class Solve:
    """A solve of a row, and arrays over the rows: both ends of the bracket (the root in the end),
    the gap between the sides at both, and the points of the next round."""

    node: Expr
    low: Array
    high: Array
    low_gap: Array
    high_gap: Array
    first: Array
    second: Array

    @property
    def arrays(self) -> tuple[Array, ...]:
        return (self.low, self.high, self.low_gap, self.high_gap, self.first, self.second)

    @property
    def root(self) -> Expr:
        return whole(self.low)


def solve_of(node: Expr, frame: Frame, names: Names) -> Solve:
    """The arrays for a solve of a row."""
    over: tuple[Index, ...] = (*frame.grid, frame.held)
    words = ("", "_high", "_low_gap", "_high_gap", "_first", "_second")
    made = [names.fresh(f"{node.attr}{word}") for word in words]
    return Solve(node, *(Array(name, over, "real", "workspace") for name in made))


def whole(array: Array) -> Expr:
    """A read of an array at its own indices."""
    return read(array, map(position, array.indices))
