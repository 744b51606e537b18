"""Prints a scan kernel in its sequential form as Triton: one program walks time with the states of
one instance of the grid in registers, or its part of their widths.

A width along which nothing is folded or moved splits over programs: its entries never meet.

Does not print chunks, or products that matrix units take.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attnc.backends.triton_instance import InstancePrinter, Walk
from attnc.backends.triton_tensors import STATES
from attnc.backends.triton_texts import unwrapped

from attnc.expressions.index import Axis
from attnc.expressions.tree import Expr, position, postorder
from attnc.schedule import Schedule
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import (
    Contraction,
    Decays,
    Let,
    Product,
    Scanned,
    ScannedPair,
    Store,
    TileScan,
    TriangularSolve,
    scan_parts,
)


def expressions(kernel: ScanKernel) -> tuple[Expr, ...]:
    """Every expression of a scan kernel."""
    return (*first_of(kernel), *repeated(kernel))


def first_of(kernel: ScanKernel) -> tuple[Expr, ...]:
    """The expressions before the loop."""
    return (*(let.expr for let in kernel.grid_values), *kernel.loop.initial)


def repeated(kernel: ScanKernel) -> tuple[Expr, ...]:
    """The expressions of the loop."""
    loop = kernel.loop
    return (
        *(expr for one in (*loop.inside, *loop.after) for expr in parts_of(one)),
        *loop.advance,
        *(store.expr for store in kernel.stores),
    )


def parts_of(
    statement: Let | Product | TriangularSolve | Contraction | Decays | TileScan,
) -> tuple[Expr, ...]:
    """The expressions of a statement."""
    if isinstance(statement, Let):
        return (statement.expr,)
    if isinstance(statement, (Scanned, ScannedPair)):
        return scan_parts(statement)
    if isinstance(statement, TriangularSolve):
        left = () if statement.left is None else (statement.left,)
        return (statement.matrix, statement.right, *left)
    if isinstance(statement, Decays):
        return (statement.log,)
    log = statement.log if isinstance(statement, Contraction) else None
    return (statement.left, statement.right, *(() if log is None else (log,)))


def split_axes(kernel: ScanKernel, axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """The axes along which entries never meet: nothing folds them, no state is read elsewhere."""
    met = {one.along.axis for one in kernel.loop.inside if isinstance(one, Contraction)}
    for node in postorder(*expressions(kernel)):
        met.update(index.axis for index in node.bound)
        if node.op == "read" and node.array.role in STATES:
            pairs = zip(node.array.indices, node.args, strict=True)
            met.update(index.axis for index, at in pairs if at != position(index))
    states = kernel.loop.states
    kept = {axis for state in states for axis in state.axes if state.axes.count(axis) == 1}
    return tuple(axis for axis in axes if axis in kept - met)


class ScanPrinter(InstancePrinter):
    """Prints one kernel: `print()` gives the holes of its template and what its launch must
    know."""

    how = "row by row"

    def __init__(self, kernel: ScanKernel, schedule: Schedule) -> None:
        self.kernel = kernel
        loop = kernel.loop
        arrays = [store.array for store in kernel.stores]
        arrays += [final.array for final in kernel.finals]
        walk = Walk(
            kernel.grid, loop.time, loop.states, tuple(arrays), first_of(kernel), repeated(kernel)
        )
        super().__init__(walk, schedule)

    def split_axes(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return split_axes(self.kernel, axes)

    def print(self) -> dict[str, Any]:
        kernel, loop = self.kernel, self.kernel.loop
        place = self._place()
        lanes = self._lanes()
        begin: list[str] = []
        for let in kernel.grid_values:
            self._let(let, begin)
        self._still(begin)
        self._begun(loop.states, loop.initial, begin)
        body = self._body()
        end = [line for final in kernel.finals for line in self._final(final)]
        shifted = list(self.arguments.shifted.values())
        return {
            "function": f"kernel_{kernel.name}",
            "arguments": self.arguments,
            "prepared": self.arguments.prepared,
            "place": [*place, *shifted, *lanes],
            "begin": begin,
            "time": loop.time.name,
            "how": self.how,
            "count": self._count(),
            "rows": body,
            "end": end,
            "comment": [f'"""{", ".join(s.name for s in loop.states)} {self.how}."""'],
            "facts": self._facts(),
        }

    def _facts(self) -> dict[str, Any]:
        """What the launch must know: the grid, the axes of tiles, which of them may be split, the
        axes of each state, that of rows, and the rows between states that are kept."""
        return {
            "grid": tuple(index.axis.name for index in self.kernel.grid),
            "split": tuple(axis.name for axis in self.split),
            "states": tuple(
                tuple(axis.name for axis in state.axes) for state in self.kernel.loop.states
            ),
            "axes": tuple(axis.name for axis in self.axes),
            "time": self.kernel.loop.time.axis.name,
            "every": self.kernel.every,
        }

    def _count(self) -> str:
        """How often the loop runs."""
        return self.arguments.length(self.kernel.loop.time.axis.name)

    def _body(self) -> list[str]:
        """The statements of the loop."""
        loop = self.kernel.loop
        lines: list[str] = []
        self._step(lines)
        lines += self._kept()
        for statement in loop.inside:
            self._statement(statement, lines)
        self._carry(loop.states, loop.advance, lines)
        for let in loop.after:
            self._let(let, lines)
        for store in self.kernel.stores:
            lines += self._store(store)
        return lines

    def _step(self, lines: list[str]) -> None:
        """Where the loop is."""
        self._enter("step", lines)

    def _kept(self) -> list[str]:
        """The states before a block of rows, where one begins."""
        kernel, rows = self.kernel, self._rows_a_step()
        if not kernel.checkpoints:
            return []
        block = self.scope.names.fresh("kept")
        first = f"step * {rows}" if rows != "1" else "step"
        lines = [f"{block} = (tl.full([], 0, tl.int64) + {first}) // {kernel.every}"]
        kept = [line for one in kernel.checkpoints for line in self._checkpoint(one, block)]
        lines += [f"if {first} % {kernel.every} == 0:", *(f"    {line}" for line in kept)]
        return lines

    def _rows_a_step(self) -> str:
        return "1"

    def _statement(self, statement: Any, lines: list[str]) -> None:
        self._let(statement, lines)

    def _store(self, store: Store) -> list[str]:
        over = (self.kernel.loop.time, *((store.width,) if store.width is not None else ()))
        layout = (index for index in over if index in self.places.order)
        body: list[str] = []
        printer = self._printer(layout, body, store.array.name)
        text = unwrapped(printer.number(store.expr))
        return self._put(store.array, tuple(map(position, store.array.indices)), text, printer)
