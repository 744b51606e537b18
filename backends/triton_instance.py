"""What the printers of scans share, forwards and backwards: one program has one instance of a grid,
or its part of the widths, keeps states in registers and walks rows.

does      the program's place, the lanes of widths, values, states as tiles, stores
does not  say what a loop does, or which widths may be split
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnc.backends.triton_names import Arguments, Names
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_scope import Leaf, Scope
from attnc.backends.triton_tensors import STATES, Places, TensorPrinter
from attnc.backends.triton_texts import unwrapped

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, position, postorder, read
from attnc.schedule import Schedule
from attnc.schedule.scans import Checkpoint, Final
from attnc.schedule.statements import Let

OWN = ("rest", "step", "at")  # names of the templates
# The name under which the launch passes a result that an input has the name of already.
LAST = ".last"


@dataclass(frozen=True)
class Walk:
    """What an instance walks, as its printer needs it.

    states   all that is in registers from row to row
    arrays   results: their indices have lanes, as those of states have
    once     expressions outside the loop over rows; `again`: those inside
    """

    grid: tuple[Index, ...]
    time: Index
    states: tuple[Array, ...]
    arrays: tuple[Array, ...]
    once: tuple[Expr, ...]
    again: tuple[Expr, ...]


class InstancePrinter(ABC):
    """Prints the statements of an instance; its scope grows with them."""

    def __init__(self, walk: Walk, schedule: Schedule) -> None:
        self.walk = walk
        names = Names()
        names.taken.update(OWN)
        self.arguments = Arguments(names)
        axes = {axis: None for state in walk.states for axis in state.axes}
        axes.update(dict.fromkeys(schedule.widths))
        self.axes = tuple(axes)
        self.split = self.split_axes(self.axes)
        self.scope = Scope(names, self.arguments, widths=frozenset(a.name for a in self.axes))
        self.places = Places(self.axes)
        self.inputs = frozenset(argument.name for argument in schedule.signature.inputs)

    @abstractmethod
    def split_axes(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """The widths that programs share."""

    # --- Where a program stands -------------------------------------------------------------------

    def _place(self) -> list[str]:
        """The part of each split width, and the row of each grid index, from the program's
        number."""
        lines: list[str] = []
        for axis in self.split:
            parts = self._parts(axis)
            part = self.scope.names.fresh(f"{axis.name}_part")
            lines += [f"{part} = rest % {parts}", f"rest = rest // {parts}"]
            self.places.parts[axis] = part
        for index in reversed(self.walk.grid):
            length = self.arguments.length(index.axis.name)
            batch = index.axis.name == "b"
            name = "b_row" if batch else self.scope.names.fresh(f"{index.name}_row")
            lines += [f"{name} = rest % {length}", f"rest = rest // {length}"]
            self._placed(index, Leaf(name), lines)
        if not any(index.axis.name == "b" for index in self.walk.grid):
            lines.append("b_row = 0")
        return lines

    def _parts(self, axis: Axis) -> str:
        """How many programs share a width."""
        block, width = self._block(axis), self.arguments.width(axis.name)
        return f"(({width} + {block} - 1) // {block})"

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
        walk = self.walk
        found: dict[Index, None] = {}
        for array in (*walk.states, *walk.arrays):
            found.update(dict.fromkeys(array.indices))
        for node in postorder(*walk.once, *walk.again):
            found.update(dict.fromkeys(node.bound))
            if node.op == "index":
                assert isinstance(node.attr, Index)
                found[node.attr] = None
        outer = {*walk.grid, walk.time}
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

    def _enter(self, row: str, lines: list[str]) -> None:
        """The row that a loop is at."""
        time = self.walk.time
        name = self.scope.names.fresh(f"{time.name}_row")
        lines.append(f"{name} = tl.full([], 0, tl.int64) + {row}")
        self._placed(time, Leaf(name), lines)

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
        fixed = {*self.walk.grid, *self.places.order} - {self.walk.time}
        for node in postorder(*self.walk.again):
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

    def _begun(self, states: Sequence[Array], exprs: Iterable[Expr], lines: list[str]) -> None:
        """States of these first values, in tiles of their own."""
        tiles = [self.scope.names.fresh(state.name) for state in states]
        firsts = [self._whole(*pair, lines) for pair in zip(states, exprs, strict=True)]
        lines += [f"{tile} = {text}" for tile, text in zip(tiles, firsts, strict=True)]
        for state, tile in zip(states, tiles, strict=True):
            self.places.states[state.name] = (tile, state)

    def _carry(self, states: Sequence[Array], exprs: Iterable[Expr], lines: list[str]) -> None:
        """States become expressions of old ones."""
        made = []
        for state, expr in zip(states, exprs, strict=True):
            if expr == read(state, map(position, state.indices)):
                continue
            text = self._whole(state, expr, lines)
            name = self.scope.names.fresh(f"{state.name}_next")
            made.append((self.places.states[state.name][0], name, text))
        lines += [f"{name} = {text}" for _, name, text in made]
        lines += [f"{tile} = {name}" for tile, name, _ in made]

    def _checkpoint(self, one: Checkpoint, block: str) -> list[str]:
        """The state before a block of rows, kept."""
        return self._final(Final(one.array, one.state, self._kept_at(one, block)))

    def _kept_at(self, one: Checkpoint, block: str) -> tuple[Expr, ...]:
        """Where a checkpoint stands, its block at this row."""
        index = one.array.indices[len(self.walk.grid)]
        self.scope = self.scope.extended(rows={index: Leaf(block)}, positions={index: Leaf(block)})
        return tuple(map(position, one.array.indices))

    def _final(self, final: Final) -> list[str]:
        """The value of a state, stored."""
        body: list[str] = []
        printer = self._printer(final.state.indices, body, final.state.name)
        text = printer.text(read(final.state, map(position, final.state.indices)))
        return self._put(final.array, final.at, unwrapped(text), printer)

    def _put(
        self, array: Array, at: tuple[Expr, ...], text: str, printer: TensorPrinter
    ) -> list[str]:
        """A store, where the array is wanted."""
        entry, mask = self._entry(array, at, printer)
        printer.lines.append(f"tl.store({entry}, {text}{f', mask={mask}' if mask else ''})")
        return self._where_wanted(array, printer.lines)

    def _entry(self, array: Array, at: tuple[Expr, ...], printer: TensorPrinter) -> tuple[str, str]:
        """The pointer of an entry of a result, and where it may be stored."""
        entry, guards = printer.address(self._result(array), at)
        return entry, " & ".join(dict.fromkeys(guards))

    def _result(self, array: Array) -> Array:
        """The array as the launch passes it."""
        if array.name not in self.inputs:
            return array
        return Array(f"{array.name}{LAST}", array.indices, array.kind, array.role)

    def _where_wanted(self, array: Array, body: Iterable[str]) -> list[str]:
        lines = [line for text in body for line in text.split("\n")]
        pointer = self.arguments.pointer(self._result(array))
        return [f"if {pointer} is not None:", *(f"    {line}" for line in lines)]
