"""Prints a reversed scan as Triton: one program walks the blocks of an instance, or its part of the
widths, from the last to the first. In each block it runs the states forwards from the checkpoint,
and keeps them, where the way back reads them, row by row in memory of its own; then it runs the
adjoint backwards, in registers. What several programs have a share of is added up by the launch.

Does not print chunks, or products that matrix units take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from attnc.backends.scan_order import early_writes, lets_for, names_read, write_parts
from attnc.backends.triton_instance import InstancePrinter, Walk
from attnc.backends.triton_parts import parts_text, shared_axes
from attnc.backends.triton_scope import Leaf
from attnc.backends.triton_tensors import TensorPrinter
from attnc.backends.triton_texts import unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array, Expr, number, read
from attnc.schedule import Schedule
from attnc.schedule.scans import ReverseScanKernel, RowWrite
from attnc.schedule.statements import Let

LOADED = {"real": "", "int": "", "bool": " != 0"}
INSTEAD = ("cpu", "eager")


class ReverseScanPrinter(InstancePrinter):
    """Prints one kernel: `print()` gives the holes of its template and what its launch must
    know."""

    def __init__(self, kernel: ReverseScanKernel, schedule: Schedule) -> None:
        self.kernel, self.replay = kernel, kernel.replay
        arrays = [write.array for write in (*kernel.writes, *kernel.ended)]
        arrays += [final.array for final in kernel.finals]
        states = (*self.replay.states, *kernel.twins, *kernel.carried)
        last = (*(let.expr for let in kernel.last), *kernel.ending)
        ended = (part for write in kernel.ended for part in write_parts(write))
        once = (*(let.expr for let in kernel.grid_values), *kernel.initial, *last, *ended)
        again = (*_exprs(self.replay.inside), *_exprs(kernel.inside), *_exprs(kernel.given))
        again += (*self.replay.advance, *kernel.absorbed, *kernel.advance)
        again += tuple(part for write in kernel.writes for part in write_parts(write))
        walk = Walk(kernel.grid, self.replay.time, states, tuple(arrays), once, again)
        self.shares: dict[Axis, frozenset[str]] = {}
        super().__init__(walk, schedule)

    def split_axes(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        self.shares = shared_axes(self.kernel, axes)
        return tuple(self.shares)

    def print(self) -> dict[str, Any]:
        kernel = self.kernel
        place, lanes = self._place(), self._lanes()
        begin: list[str] = []
        for let in self._first_values():
            self._let(let, begin)
        self._still(begin)
        begin += self._rooms()
        self._begun(kernel.carried, kernel.initial, begin)
        self._begun(self.replay.states, map(zero_of, self.replay.states), begin)
        first, load = self._block_begins()
        replay = self._replayed()
        rows = self._backward()
        end = self._ended()
        shifted = list(self.arguments.shifted.values())
        return {
            "function": f"kernel_{kernel.name}",
            "arguments": self.arguments,
            "prepared": self.arguments.prepared,
            "place": [*self._program(), *place, *shifted, *lanes],
            "begin": begin,
            "time": self.replay.time.name,
            "every": str(kernel.every),
            "blocks": f"({self._length()} + {kernel.every - 1}) // {kernel.every}",
            "load": [*first, *load],
            "rows_of_block": self.count,
            "replay": replay,
            "rows": rows,
            "end": end,
            "comment": [
                f'"""{", ".join(a.name for a in kernel.carried)} row by row, backwards."""'
            ],
            "facts": self._facts(),
        }

    def _first_values(self) -> tuple[Let, ...]:
        """Values of the instance."""
        return self.kernel.grid_values

    def _facts(self) -> dict[str, Any]:
        """What the launch must know: the grid, the axes of tiles, which of them may be split, the
        axes of what is in registers; the memory of a program's own; what is added to; the arrays
        of which programs that share these axes have a share each."""
        kernel = self.kernel
        held = (*self.replay.states, *(self._both if self._kept else ()), *kernel.carried)
        parts: dict[str, list[str]] = {}
        for axis, names in self.shares.items():
            for name in sorted(names):
                parts.setdefault(name, []).append(axis.name)
        added = (one.array.name for one in (*kernel.writes, *kernel.ended) if one.adds)
        return {
            "grid": tuple(index.axis.name for index in kernel.grid),
            "split": tuple(axis.name for axis in self.split),
            "states": tuple(tuple(axis.name for axis in one.axes) for one in held),
            "axes": tuple(axis.name for axis in self.axes),
            "rooms": tuple(
                (state.name, state.kind, tuple(axis.name for axis in state.axes))
                for state in self._kept
            ),
            "time": self.replay.time.axis.name,
            "every": kernel.every,
            "added": tuple(dict.fromkeys(added)),
            "parts": tuple((name, tuple(axes)) for name, axes in parts.items()),
        }

    # --- States of a block ------------------------------------------------------------------------

    @cached_property
    def early(self) -> tuple[RowWrite, ...]:
        """What is written where the states are computed again."""
        return early_writes(self.kernel)

    @cached_property
    def late(self) -> tuple[RowWrite, ...]:
        return tuple(write for write in self.kernel.writes if write not in self.early)

    @cached_property
    def _back_exprs(self) -> tuple[Expr, ...]:
        """What the way back computes from values of `inside`."""
        kernel = self.kernel
        parts = (part for write in self.late for part in write_parts(write))
        return (*kernel.absorbed, *_exprs(kernel.given), *parts, *kernel.advance)

    @cached_property
    def _back_reads(self) -> frozenset[str]:
        """The names that the way back reads."""
        lets = lets_for(self.kernel.inside, self._back_exprs)
        return names_read((*self._back_exprs, *_exprs(lets)))

    @cached_property
    def _kept(self) -> tuple[Array, ...]:
        """The states that the way back reads, before a row or after it."""
        pairs = zip(self.replay.states, self.kernel.twins, strict=True)
        return tuple(s for s, twin in pairs if {s.name, twin.name} & self._back_reads)

    @cached_property
    def _both(self) -> tuple[Array, ...]:
        """The states after a row that the way back reads: those before the row after it."""
        pairs = zip(self.replay.states, self.kernel.twins, strict=True)
        return tuple(twin for _, twin in pairs if twin.name in self._back_reads)

    def _program(self) -> list[str]:
        return ["program = rest"] if self._kept else []

    def _rooms(self) -> list[str]:
        """Where the program keeps the states of a block: whole tiles, one after another."""
        self.scope.names.taken.add("program")
        self.rooms: dict[str, str] = {}
        lines: list[str] = []
        for state in self._kept:
            own = self.places.ordered(state.indices)
            pointer = self.arguments.add(
                f"{state.name}_room", "pointer", "work", f"room.{state.name}"
            )
            size = " * ".join(self._block(index.axis) for index in own) or "1"
            terms = []
            for place, index in enumerate(own):
                lane = self._printer(own, lines, "").expand(
                    Leaf(f"tl.arange(0, {self._block(index.axis)})", (index,))
                )
                inner = [self._block(other.axis) for other in own[place + 1 :]]
                terms.append(" * ".join([lane, *inner]))
            base = f"{pointer} + program * ({self._slots()} * {size})"
            name = self.scope.names.fresh(f"{state.name}_room_at")
            lines.append(f"{name} = {' + '.join([base, *terms])}")
            self.rooms[state.name] = f"{name} + AT * ({size})"
        return lines

    def _slots(self) -> str:
        """How many states of a block are kept."""
        return str(self.kernel.every)

    def _room(self, state: Array, at: str) -> str:
        return self.rooms[state.name].replace("AT", at)

    # --- Loops ------------------------------------------------------------------------------------

    def _length(self) -> str:
        return self.arguments.length(self.replay.time.axis.name)

    def _block_begins(self) -> tuple[list[str], list[str]]:
        """Where the block is, how many rows it has, and the states before it."""
        kernel, every = self.kernel, self.kernel.every
        block, self.first, self.count = map(
            self.scope.names.fresh, ("block_row", "first_row", "row_count")
        )
        lines = [
            f"{block} = (tl.full([], 0, tl.int64) + ({self._length()} + {every - 1}) // {every})"
            " - 1 - step",
            f"{self.first} = {block} * {every}",
            f"{self.count} = tl.minimum({self._length()} - {self.first}, {every})",
        ]
        loads: list[str] = []
        for one in kernel.checkpoints:
            at = self._kept_at(one, block)
            text = self._whole(one.state, read(one.array, at), loads)
            loads.append(f"{self.places.states[one.state.name][0]} = {text}")
        return lines, loads

    def _replayed(self) -> list[str]:
        """A row of the block once more: its states, and gradients that need no cotangent of
        theirs."""
        kernel, replay = self.kernel, self.replay
        lines: list[str] = []
        if not self._kept and not self.early:
            return lines
        self._enter(f"({self.first} + at)", lines)
        for state in self._kept:
            tile = self.places.states[state.name][0]
            stored = f"{tile}.to(tl.int8)" if state.kind == "bool" else tile
            lines.append(f"tl.store({self._room(state, 'at')}, {stored})")
        self._lets(replay.inside, lines)
        tiles = dict(self.places.states)
        for state, twin, expr in zip(replay.states, kernel.twins, replay.advance, strict=True):
            text = self._whole(state, expr, lines)
            name = self.scope.names.fresh(twin.name)
            lines.append(f"{name} = {text}")
            tiles[twin.name] = (name, twin)
        self.places.states = tiles
        parts = [part for write in self.early for part in write_parts(write)]
        self._lets(lets_for(kernel.inside, parts), lines)
        for write in self.early:
            lines += self._written(write)
        for state, twin in zip(replay.states, kernel.twins, strict=True):
            lines.append(f"{tiles[state.name][0]} = {tiles[twin.name][0]}")
        return lines

    def _backward(self) -> list[str]:
        """A row on the way back. The state after it is where the loop began, or that before the
        row which came last."""
        kernel = self.kernel
        lines: list[str] = []
        at = self.scope.names.fresh("back")
        lines.append(f"{at} = {self.count} - 1 - at")
        self._enter(f"({self.first} + {at})", lines)
        tiles = dict(self.places.states)
        moves: list[str] = []
        for state, twin in zip(self.replay.states, kernel.twins, strict=True):
            if state not in self._kept:
                continue
            name, after = self.scope.names.fresh(f"{state.name}_before"), tiles[state.name][0]
            loaded = f"tl.load({self._room(state, at)}){LOADED[state.kind]}"
            lines.append(f"{name} = {loaded}")
            tiles |= {state.name: (name, state), twin.name: (after, twin)}
            moves += [f"{after} = {name}"] if twin in self._both else []
        begun, self.places.states = self.places.states, tiles
        self._lets(lets_for(kernel.inside, self._back_exprs), lines)
        self._carry(kernel.carried, kernel.absorbed, lines)
        self._lets(kernel.given, lines)
        for write in self.late:
            lines += self._written(write)
        self._carry(kernel.carried, kernel.advance, lines)
        self.places.states = begun
        return [*lines, *moves]

    def _ended(self) -> list[str]:
        """After the first row: what the initial states give."""
        kernel = self.kernel
        lines: list[str] = []
        self._lets(kernel.last, lines)
        self._carry(kernel.carried, kernel.ending, lines)
        for write in kernel.ended:
            lines += self._written(write)
        for final in kernel.finals:
            lines += self._final(final)
        return lines

    def _lets(self, lets: Iterable[object], lines: list[str]) -> None:
        for let in lets:
            assert isinstance(let, Let)
            self._let(let, lines)

    # --- Gradients --------------------------------------------------------------------------------

    def _written(self, write: RowWrite) -> list[str]:
        """A row of a gradient. Where it is added to, entries that may have one place come one
        after another."""
        if not all(index in self.places.order for index in write.over):
            raise UnsupportedError("a gradient along an axis of no width", "triton", INSTEAD)
        body: list[str] = []
        printer = self._printer(write.over, body, write.array.name)
        text = unwrapped(printer.real(printer.number(write.term), write.term))
        if not write.adds:
            return self._put(write.array, write.at, text, printer)
        checks = [] if write.condition is None else [printer.text(write.condition)]
        entry, mask = self._entry(write.array, write.at, printer)
        checks += [mask] if mask else []
        value = printer.bind(write.array.name, text)
        straight = {at.attr for at in write.at if at.op == "index"}
        loops: list[str] = []
        for index in printer.layout:
            if index not in straight:
                turn = self.scope.names.fresh(f"{index.name}_turn")
                lane = printer.expand(Leaf(self.places.lanes[index.axis][0], (index,)))
                loops.append(f"for {turn} in range(0, {self.arguments.width(index.axis.name)}):")
                checks.append(f"({lane} == {turn})")
        sizes = ", ".join(self._block(index.axis) for index in printer.layout)
        pointers = f"tl.broadcast_to({entry}, [{sizes}])" if sizes else entry
        values = f"tl.broadcast_to({value}, [{sizes}])" if sizes else value
        inside = " & ".join(dict.fromkeys(checks)) or "True"
        shaped = f"tl.broadcast_to({inside}, [{sizes}])" if sizes else inside
        adding = f"gpu_add({pointers}, {values}, {shaped})"
        for deep, loop in enumerate(loops):
            body.append("    " * deep + loop)
        body.append("    " * len(loops) + adding)
        return self._where_wanted(write.array, body)

    def _entry(self, array: Array, at: tuple[Expr, ...], printer: TensorPrinter) -> tuple[str, str]:
        """The pointer, in the program's share of the array."""
        entry, mask = super()._entry(array, at, printer)
        axes = [axis for axis, names in self.shares.items() if array.name in names]
        if not axes:
            return entry, mask
        share = parts_text((self.places.parts[axis], self._parts(axis)) for axis in axes)
        step = self.arguments.add(f"{array.name}_share", "i64", "share", array.name)
        pointer = self.arguments.pointer(self._result(array))
        return entry.replace(pointer, f"{pointer} + {share} * {step}", 1), mask


def _exprs(lets: Sequence[object]) -> tuple[Expr, ...]:
    return tuple(let.expr for let in lets if isinstance(let, Let))


def zero_of(state: Array) -> Expr:
    zeros = {"real": 0.0, "int": 0, "bool": False}
    return number(zeros[state.kind])
