"""Prints a scan kernel in tiles of rows as Triton: one program walks time CHUNK rows at a time, each
row of a tile one of time, and scans each state along them from what it was before the tile.

What two rows do together stands in templates/triton/associative.py.jinja.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_scan import ScanPrinter

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, is_number, postorder
from attnc.schedule import Schedule
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Scanned

ONE = {"sum": "1.0", "max": "0.0", "min": "0.0"}
NOTHING = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}
EXTREMUM = {"max": "gpu_larger", "min": "gpu_smaller"}


class TilePrinter(ScanPrinter):
    """A scan printer whose rows lie in tiles."""

    how = "in tiles of rows"

    def __init__(self, kernel: ScanKernel, schedule: Schedule) -> None:
        super().__init__(kernel, schedule)
        self.time = kernel.loop.time
        self.scope.names.taken.add("CHUNK")
        self.arguments.option("CHUNK")
        self.places.axes = (self.time.axis, *self.places.axes)
        exprs = (*kernel.loop.advance, *(store.expr for store in kernel.stores))
        exprs += tuple(expr for one in kernel.loop.inside for expr in _exprs(one))
        reads = {node.array.name for node in postorder(*exprs) if node.op == "read"}
        self.read = frozenset(reads)

    # --- Where the loop is ------------------------------------------------------------------------

    def _lanes(self) -> list[str]:
        name = self.time.name
        lane, inside, self.row = (
            self.scope.names.fresh(f"{name}_{word}") for word in ("lane", "in", "row")
        )
        self.places.lanes[self.time.axis] = (lane, inside)
        lines = [f"{lane} = tl.arange(0, CHUNK)", *super()._lanes()]
        self.places.add(self.time)
        self.arguments.blocks[self.time] = "CHUNK"
        self.scope = self.scope.extended(inside={self.time: Leaf(inside, (self.time,))})
        return lines

    def _count(self) -> str:
        return f"(({super()._count()} + CHUNK - 1) // CHUNK)"

    def _rows_a_step(self) -> str:
        return "CHUNK"

    def _step(self, lines: list[str]) -> None:
        lane, inside = self.places.lanes[self.time.axis]
        lines += [
            f"{self.row} = (tl.full([], 0, tl.int64) + step) * CHUNK + {lane}",
            f"{inside} = {self.row} < {super()._count()}",
        ]
        self._placed(self.time, Leaf(self.row, (self.time,)), lines)

    # --- Statements -------------------------------------------------------------------------------

    def _statement(self, statement: Any, lines: list[str]) -> None:
        if not isinstance(statement, Scanned):
            self._let(statement, lines)
            return
        first = self.places.states[statement.state.name][0]
        after = self.scope.names.fresh(statement.after.name)
        lines.append(f"{after} = {self._scanned(statement, first, lines)}")
        self.places.states[statement.after.name] = (after, statement.after)
        if statement.before.name in self.read:
            before = self.scope.names.fresh(statement.before.name)
            lines.append(f"{before} = gpu_row_before({first}, {after}, CHUNK)")
            self.places.states[statement.before.name] = (before, statement.before)

    def _scanned(self, one: Scanned, first: str, lines: list[str]) -> str:
        """The state after every row of the tile."""
        over, plus = one.after.indices, one.plus
        added = self._tile(one.added, over, NOTHING[plus], lines, one.state.name)
        begun = f"tl.expand_dims({first}, 0)"
        if is_number(one.factor, float(ONE[plus])):
            if plus == "sum":
                return f"{begun} + tl.cumsum({added}, 0)"
            most = EXTREMUM[plus]
            return f"{most}({begun}, tl.associative_scan({added}, 0, {most}))"
        factor = self._tile(one.factor, over, ONE[plus], lines, "factor")
        gone, made = map(self.scope.names.fresh, ("gone", "made"))
        lines.append(
            f"{gone}, {made} = tl.associative_scan(({factor}, {added}), 0, gpu_pair_{plus})"
        )
        if plus == "sum":
            return f"{gone} * {begun} + {made}"
        return f"{EXTREMUM[plus]}({gone} + {begun}, {made})"

    def _tile(
        self, expr: Expr, over: Iterable[Index], unit: str, lines: list[str], stem: str
    ) -> str:
        """An expression over these indices, whole; rows that are not there change nothing."""
        printer = self._printer(over, lines, stem)
        inside = printer.expand(self.scope.inside[self.time])
        text = printer.real(printer.number(expr), expr)
        sizes = ", ".join(self.arguments.blocks[index] for index in printer.layout)
        text = f"tl.where({inside}, {text}, {unit}).to(ACC)"
        return printer.bind(stem, f"tl.broadcast_to({text}, [{sizes}])")

    def _carry(self, states: Sequence[Array], exprs: Iterable[Expr], lines: list[str]) -> None:
        """The states after the tile's last row."""
        for state, expr in zip(states, exprs, strict=True):
            tile, after = (self.places.states[name][0] for name in (state.name, expr.array.name))
            lines.append(f"{tile} = gpu_row_last({after}, CHUNK)")


def _exprs(statement: Any) -> tuple[Expr, ...]:
    if isinstance(statement, Scanned):
        return (statement.factor, statement.added)
    return (statement.expr,)
