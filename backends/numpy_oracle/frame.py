"""Names that have one value for now, and values that leave their expression."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnc.backends.numpy_oracle.dependence import Name
from attnc.backends.numpy_oracle.grid import Grid

from attnc.errors import ValueRangeError
from attnc.expressions.tree import Expr


@dataclass
class Frame:
    """Names with a value for now, and what was evaluated of all that they do not touch."""

    names: dict[Name, Grid] = field(default_factory=dict)
    parent: Frame | None = None
    kept: dict[bytes, Grid] = field(default_factory=dict)
    orders: dict[bytes, list[tuple[Expr, bool]]] = field(default_factory=dict)
    before: Frame | None = None  # the frame in which the `clauses` of a block with states are read:
    clauses: frozenset[str] = frozenset()  # they see the states as the last row left them

    def binds(self, names: Iterable[Name]) -> bool:
        return not self.names.keys().isdisjoint(names)


def seen_from(frame: Frame, name: str) -> Frame:
    """The frame in which an array is evaluated that is read in `frame`."""
    around: Frame | None = frame
    while around is not None:
        if name in around.clauses and around.before is not None:
            return around.before
        around = around.parent
    return frame


def demanded(grid: Grid, operator: str) -> Grid:
    """The grid, every point of which is asked for: a trouble is an error."""
    for trouble in grid.troubles:
        if trouble.where.mantissa.any():
            raise ValueRangeError(operator, trouble.argument, trouble.expected, trouble.came)
    return grid


def final(grid: Grid) -> Grid:
    """A value that has left its expression: `else` around a later read does not forgive it."""
    if not grid.troubles:
        return grid
    return replace(grid, troubles=tuple(replace(each, border=False) for each in grid.troubles))


def place_of(node: Expr) -> str:
    return f" ({node.span})" if node.span is not None else ""
