"""What the indices of a derivative stand for: outer axes, rows, keys, widths.

A derivative names its indices after axes and heights. The kernels of a derivative share one set of
names: those of the forward's frame.

does      says of an axis what it is in the operator, and of an expression what it folds over
needs     the forward's frame
does not  change expressions
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.passes.frame import Frame

Role = Literal["grid", "row", "key", "coarse", "width"]


@dataclass(frozen=True)
class Roles:
    """The roles of axes in the operator whose forward has this frame (rows held).

    group     the name of an axis that counts a key head's query heads
    """

    frame: Frame
    group: str
    _over: dict[bytes, frozenset[Axis]] = field(default_factory=dict, compare=False, repr=False)

    def of(self, axis: Axis) -> Role:
        if any(index.axis is axis for index in self.frame.grid):
            return "grid"
        if axis is self.frame.held.axis:
            return "row"
        if self.frame.walker(axis) is not None:
            return "key"
        of = axis.of
        if of is not None and any(index.axis is of for index in self.frame.grid):
            return "coarse"
        return "width"

    def own(self, axis: Axis) -> Index | None:
        """The one index that kernels have on an axis of rows, keys or the grid."""
        outer = (*self.frame.grid, self.frame.held, *self.frame.walked)
        return next((index for index in outer if index.axis is axis), None)

    def is_outer(self, index: Index) -> bool:
        """Whether the index is one of rows, keys or the grid."""
        return self.of(index.axis) in ("grid", "row", "key")

    def folds_keys(self, expr: Expr) -> bool:
        """Whether the expression has a fold over keys."""
        return any(self.of(axis) == "key" for axis in self.folded(expr))

    def folds_outer(self, expr: Expr) -> bool:
        """Whether the expression has a fold over rows, keys or the grid."""
        return any(self.of(axis) != "width" for axis in self.folded(expr))

    def folded(self, expr: Expr) -> frozenset[Axis]:
        """The axes that folds in the expression are over."""
        for node in postorder(expr, done=self._over):
            own = frozenset(index.axis for index in node.bound)
            self._over[node.digest] = own.union(*(self._over[arg.digest] for arg in node.args))
        return self._over[expr.digest]

    def sums_outer(self, node: Expr) -> bool:
        """Whether the node is a sum over outer axes."""
        sums = node.op == "fold" and node.monoid == "sum" and node.kind == "real"
        return sums and all(self.of(index.axis) in ("grid", "coarse") for index in node.bound)

    def is_row(self, expr: Expr) -> bool:
        """Whether the expression is over the grid, the row and widths alone, by its names."""
        keys = {"key", "coarse"}
        return not any(self.of(index.axis) in keys for index in expr.free)

    def widths(self, exprs: Iterable[Expr]) -> tuple[Index, ...]:
        """The free widths, in order of their names."""
        free = frozenset().union(*(expr.free for expr in exprs))
        found = (index for index in free if self.of(index.axis) == "width")
        return tuple(sorted(found, key=lambda index: (index.name, index.number)))
