"""Prints a scan kernel in its sequential form as Triton: one program walks time with the states of
one instance of the grid in registers, or its part of their widths.

A width along which nothing is folded or moved splits over programs: its entries never meet.

Does not print chunks, or products that matrix units take.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attnc.backends.triton_names import Arguments, Names
from attnc.backends.triton_printer import Leaf, Printer, Scope
from attnc.backends.triton_tensors import STATES, Places, TensorPrinter
from attnc.backends.triton_texts import unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, position, postorder
from attnc.schedule import (
    Contraction,
    Let,
    Product,
    ScanKernel,
    Schedule,
    Store,
    TriangularSolve,
)

OWN = ("rest", "step")  # names of the template
# The name under which the launch passes a result that an input has the name of already.
LAST = ".last"


def expressions(kernel: ScanKernel) -> tuple[Expr, ...]:
    """Every expression of a scan kernel."""
    first = (*(let.expr for let in kernel.grid_values), *kernel.loop.initial)
    return (*first, *repeated(kernel))


def repeated(kernel: ScanKernel) -> tuple[Expr, ...]:
    """The expressions of the loop."""
    loop = kernel.loop
    return (
        *(expr for one in (*loop.inside, *loop.after) for expr in parts_of(one)),
        *loop.advance,
        *(store.expr for store in kernel.stores),
    )


def parts_of(statement: Let | Product | TriangularSolve | Contraction) -> tuple[Expr, ...]:
    """The expressions of a statement."""
    if isinstance(statement, Let):
        return (statement.expr,)
    if isinstance(statement, TriangularSolve):
        return (statement.matrix, statement.right)
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


class ScanPrinter:
    """Prints one kernel: `print()` gives the holes of its template and what its launch must
    know."""

    how = "row by row"

    def __init__(self, kernel: ScanKernel, schedule: Schedule) -> None:
        if kernel.checkpoints:
            raise UnsupportedError("states kept for a backward", "triton", ("cpu", "eager"))
        self.kernel = kernel
        names = Names()
        names.taken.update(OWN)
        self.arguments = Arguments(names)
        axes = {axis: None for state in kernel.loop.states for axis in state.axes}
        axes.update(dict.fromkeys(schedule.widths))
        self.axes = tuple(axes)
        self.split = split_axes(kernel, self.axes)
        self.scope = Scope(names, self.arguments, widths=frozenset(a.name for a in self.axes))
        self.places = Places(self.axes)
        self.inputs = frozenset(argument.name for argument in schedule.signature.inputs)

    def print(self) -> dict[str, Any]:
        kernel, loop = self.kernel, self.kernel.loop
        place = self._place()
        lanes = self._lanes()
        begin: list[str] = []
        for let in kernel.grid_values:
            self._let(let, begin)
        self._still(begin)
        tiles = {s.name: self.scope.names.fresh(s.name) for s in loop.states}
        firsts = [
            self._whole(state, first, begin)
            for state, first in zip(loop.states, loop.initial, strict=True)
        ]
        begin += [f"{tiles[s.name]} = {text}" for s, text in zip(loop.states, firsts, strict=True)]
        self.places.states = {s.name: (tiles[s.name], s) for s in loop.states}
        body = self._body(tiles)
        end = [line for final in kernel.finals for line in self._final(final)]
        shifted = list(self.arguments.shifted.values())
        return {
            "function": f"kernel_{kernel.name}",
            "arguments": self.arguments,
            "prepared": list(self.arguments.prepared.values()),
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
        axes of each state, and that of rows."""
        return {
            "grid": tuple(index.axis.name for index in self.kernel.grid),
            "split": tuple(axis.name for axis in self.split),
            "states": tuple(
                tuple(axis.name for axis in state.axes) for state in self.kernel.loop.states
            ),
            "axes": tuple(axis.name for axis in self.axes),
            "time": self.kernel.loop.time.axis.name,
        }

    # --- Where a program stands -------------------------------------------------------------------

    def _place(self) -> list[str]:
        """The part of each split width, and the row of each grid index, from the program's
        number."""
        lines: list[str] = []
        for axis in self.split:
            block, width = self._block(axis), self.arguments.width(axis.name)
            parts = f"(({width} + {block} - 1) // {block})"
            part = self.scope.names.fresh(f"{axis.name}_part")
            lines += [f"{part} = rest % {parts}", f"rest = rest // {parts}"]
            self.places.parts[axis] = part
        for index in reversed(self.kernel.grid):
            length = self.arguments.length(index.axis.name)
            batch = index.axis.name == "b"
            name = "b_row" if batch else self.scope.names.fresh(f"{index.name}_row")
            lines += [f"{name} = rest % {length}", f"rest = rest // {length}"]
            self._placed(index, Leaf(name), lines)
        if not any(index.axis.name == "b" for index in self.kernel.grid):
            lines.append("b_row = 0")
        return lines

    def _lanes(self) -> list[str]:
        """The lanes of each width, which all its indices share."""
        lines: list[str] = []
        for axis in self.axes:
            block, width = self._block(axis), self.arguments.width(axis.name)
            lane, inside = (self.scope.names.fresh(f"{axis.name}_{w}") for w in ("lane", "in"))
            part = self.places.parts.get(axis)
            first = f"({part} * {block}).to(tl.int32) + " if part else ""
            lines += [
                f"{lane} = {first}tl.arange(0, {block})",
                f"{inside} = gpu_below({lane}, {width}, {width} % {block} != 0, {block})",
            ]
            self.places.lanes[axis] = (lane, inside)
        for index in self._indices():
            lane, inside = self.places.lanes[index.axis]
            self.arguments.blocks[index] = self._block(index.axis)
            self.places.add(index)
            self._placed(index, Leaf(lane, (index,)), lines)
            self.scope = self.scope.extended(inside={index: Leaf(inside, (index,))})
        return lines

    def _indices(self) -> tuple[Index, ...]:
        """Every index of a width, in the order of the text."""
        found: dict[Index, None] = {}
        for state in self.kernel.loop.states:
            found.update(dict.fromkeys(state.indices))
        arrays = [store.array for store in self.kernel.stores]
        for array in (*arrays, *(final.array for final in self.kernel.finals)):
            found.update(dict.fromkeys(array.indices))
        for node in postorder(*expressions(self.kernel)):
            found.update(dict.fromkeys(node.bound))
            if node.op == "index":
                assert isinstance(node.attr, Index)
                found[node.attr] = None
        outer = {*self.kernel.grid, self.kernel.loop.time}
        return tuple(i for i in found if i.axis in self.axes and i not in outer)

    def _block(self, axis: Axis) -> str:
        return self.arguments.add(f"BLOCK_{axis.name.upper()}", "constexpr", "block", axis.name)

    def _placed(self, index: Index, row: Leaf, lines: list[str]) -> None:
        """The index at a row; its position, where the axis does not begin at 0."""
        start = Printer(self.scope, (), lines).start(index.axis)
        at = row
        if start != "0":
            at = Leaf(self.scope.names.fresh(index.name), row.over)
            lines.append(f"{at.text} = {row.text} + {start}")
        self.scope = self.scope.extended(positions={index: at}, rows={index: row})

    # --- Statements -------------------------------------------------------------------------------

    def _printer(self, over: Iterable[Index], lines: list[str], stem: str) -> TensorPrinter:
        return TensorPrinter(self.scope, self.places.ordered(over), lines, stem, places=self.places)

    def _let(self, let: Let, lines: list[str]) -> None:
        over = self.places.of(let.expr)
        printer = self._printer(over, lines, let.name)
        name = printer.bind(let.name, printer.number(let.expr))
        self.scope = self.scope.extended(values={let.name: Leaf(name, over)})

    def _still(self, lines: list[str]) -> None:
        """Reads of inputs that time does not move, once."""
        fixed = {*self.kernel.grid, *self.places.order} - {self.kernel.loop.time}
        for node in postorder(*repeated(self.kernel)):
            values = {str(one.attr) for one in postorder(node) if one.op == "value"}
            if node.op != "read" or node.array.role in STATES or node.digest in self.scope.known:
                continue
            if node.free <= fixed and values <= set(self.scope.values):
                over = self.places.of(node)
                printer = self._printer(over, lines, node.array.name)
                name = printer.bind(node.array.name, printer.text(node))
                self.scope = self.scope.extended(known={node.digest: Leaf(name, over)})

    def _whole(self, state: Array, expr: Expr, lines: list[str]) -> str:
        """An expression at the shape and type of a state."""
        printer = self._printer(state.indices, lines, state.name)
        kind = {"real": "ACC", "int": "tl.int64", "bool": "tl.int1"}[state.kind]
        sizes = ", ".join(self._block(index.axis) for index in printer.layout)
        if expr.op == "number":
            return f"tl.full([{sizes}], {printer.text(expr)}, {kind})"
        text = printer.number(expr)
        if state.kind == "real":
            text = printer.real(text, expr)
        cast = f"({text}) != 0" if state.kind == "bool" else f"({text}).to({kind})"
        return f"tl.broadcast_to({cast}, [{sizes}])" if sizes else cast

    def _count(self) -> str:
        """How often the loop runs."""
        return self.arguments.length(self.kernel.loop.time.axis.name)

    def _enter(self, lines: list[str]) -> None:
        """The row that the loop is at."""
        time = self.kernel.loop.time
        row = self.scope.names.fresh(f"{time.name}_row")
        lines.append(f"{row} = tl.full([], 0, tl.int64) + step")
        self._placed(time, Leaf(row), lines)

    def _statement(self, statement: Any, lines: list[str]) -> None:
        self._let(statement, lines)

    def _body(self, tiles: dict[str, str]) -> list[str]:
        """The statements of the loop."""
        loop = self.kernel.loop
        lines: list[str] = []
        self._enter(lines)
        for statement in loop.inside:
            self._statement(statement, lines)
        made = []
        for state, expr in zip(loop.states, loop.advance, strict=True):
            text = self._whole(state, expr, lines)
            made.append((tiles[state.name], self.scope.names.fresh(f"{state.name}_next"), text))
        lines += [f"{name} = {text}" for _, name, text in made]
        lines += [f"{tile} = {name}" for tile, name, _ in made]
        for let in loop.after:
            self._let(let, lines)
        for store in self.kernel.stores:
            lines += self._store(store)
        return lines

    def _store(self, store: Store) -> list[str]:
        over = (self.kernel.loop.time, *((store.width,) if store.width is not None else ()))
        layout = (index for index in over if index in self.places.order)
        body: list[str] = []
        printer = self._printer(layout, body, store.array.name)
        text = unwrapped(printer.number(store.expr))
        return self._put(store.array, tuple(map(position, store.array.indices)), text, printer)

    def _final(self, final: Any) -> list[str]:
        """The last value of a state."""
        body: list[str] = []
        printer = self._printer(final.state.indices, body, final.state.name)
        at = tuple(map(position, final.state.indices))
        text = printer.text(Expr("read", at, final.state, final.state.kind))
        return self._put(final.array, final.at, unwrapped(text), printer)

    def _put(
        self, array: Array, at: tuple[Expr, ...], text: str, printer: TensorPrinter
    ) -> list[str]:
        """A store, where the array is wanted."""
        if array.name in self.inputs:
            array = Array(f"{array.name}{LAST}", array.indices, array.kind, array.role)
        entry, guards = printer.address(array, at)
        mask = " & ".join(dict.fromkeys(guards))
        printer.lines.append(f"tl.store({entry}, {text}{f', mask={mask}' if mask else ''})")
        lines = [line for text in printer.lines for line in text.split("\n")]
        return [f"if {self.arguments.pointer(array)} is not None:", *(f"    {x}" for x in lines)]
