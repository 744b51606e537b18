"""Which indices a kernel holds and walks, and what an expression depends on in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr

Level = Literal["grid", "held", "walked", "pair", "inner"]


@dataclass(frozen=True)
class Frame:
    """The indices of a stream kernel: grid (outer axes and further rows), the held index, and for
    each key source the index that walks it."""

    grid: tuple[Index, ...]
    held: Index
    walked: tuple[Index, ...]

    def walker(self, axis: Axis) -> Index | None:
        """The index that walks an axis, or None if the axis is no key source."""
        return next((index for index in self.walked if index.axis is axis), None)

    @property
    def rows(self) -> frozenset[Index]:
        return frozenset((*self.grid, self.held))

    def level(self, expr: Expr) -> Level:
        """What the expression depends on; inner: on the bound index of a fold around it."""
        free = expr.free - set(self.grid)
        walked = free & set(self.walked)
        if free - walked - {self.held}:
            return "inner"
        if not free:
            return "grid"
        if not walked:
            return "held"
        return "pair" if self.held in free else "walked"

    def is_row(self, expr: Expr) -> bool:
        """Whether the expression is the same for all keys of a row."""
        return expr.free <= self.rows


def widths_of(expr: Expr, known: Iterable[Index]) -> tuple[Index, ...]:
    """The free indices beyond `known`, in order of their names."""
    rest = expr.free - frozenset(known)
    return tuple(sorted(rest, key=lambda index: (index.name, index.number)))
