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
    each key source the index that walks it.

    around    grid indices that the walk is repeated for (see WalkedLoop)
    places    outer indices that this kernel has as expressions of grid and around: a query head of
              its key head and its place in the group
    """

    grid: tuple[Index, ...]
    held: Index
    walked: tuple[Index, ...]
    around: tuple[Index, ...] = ()
    places: tuple[tuple[Index, Expr], ...] = ()

    def walker(self, axis: Axis) -> Index | None:
        """The index that walks an axis, or None if the axis is no key source."""
        return next((index for index in self.walked if index.axis is axis), None)

    @property
    def outer(self) -> tuple[Index, ...]:
        """What a loop is repeated for, outermost first."""
        return (*self.grid, *self.around)

    def walks(self, expr: Expr) -> bool:
        """Whether the expression changes along the walk, its repetitions included."""
        return bool(expr.free & {*self.walked, *self.around})

    def is_outer(self, expr: Expr) -> bool:
        """Whether the expression is the same for a whole walk."""
        return expr.free <= frozenset(self.outer)

    @property
    def rows(self) -> frozenset[Index]:
        return frozenset((*self.grid, self.held))

    def level(self, expr: Expr) -> Level:
        """What the expression depends on; inner: on the bound index of a fold around it. What
        changes with the repetitions of a walk alone counts as walked."""
        free = expr.free - set(self.grid)
        walked = free & {*self.walked, *self.around}
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
