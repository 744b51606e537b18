"""Prints a reversed scan as C++: blocks of rows from the last to the first; in each, the states
forwards from its checkpoint into arrays that stay in cache, then the adjoint backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from attnc.backends.cpu_lanes import KEPT, Buffer
from attnc.backends.cpu_names import Slots
from attnc.backends.cpu_passes import RowPasses
from attnc.backends.cpu_rows import RowPrinter, nested
from attnc.backends.cpu_scan import InstancePrinter, ScanText, folded_axes, guarded
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_words import unwrapped
from attnc.backends.scan_order import early_writes, write_parts

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position, read
from attnc.schedule.scans import Checkpoint, ReverseScanKernel, RowWrite
from attnc.schedule.statements import Let


class ReverseScanPrinter(InstancePrinter):
    """Prints a reversed scan (see the module)."""

    def __init__(self, kernel: ReverseScanKernel, slots: Slots, identifier: str) -> None:
        super().__init__(kernel.grid, kernel.replay.time, slots, identifier)
        self.kernel = kernel

    def print(self) -> ScanText:
        kernel = self.kernel
        names = {s.name for s in (*kernel.replay.states, *kernel.twins, *kernel.carried)}
        count, scope = self.begin(folded_axes(self._every(), names))
        for array in kernel.carried:
            self.rows.buffers[array.name] = self.rows.buffer(array.name, array.kind, array.indices)
        self.blocks = [self._block(state) for state in kernel.replay.states]
        lines, scope = self._begun(scope)
        body = self._blocks(scope, lines)
        ended = self._ended(scope)
        around = ", ".join(array.name for array in kernel.carried)
        title = f"{kernel.name}: {around} row by row, backwards"
        return self.finished(title, count, [*lines, *body, *ended])

    def _every(self) -> list[Expr]:
        """Every expression of a row."""
        kernel = self.kernel
        lets = [*kernel.replay.inside, *kernel.inside, *kernel.given]
        writes = [expr for one in kernel.writes for expr in write_parts(one)]
        return [
            *(let.expr for let in lets if isinstance(let, Let)),
            *kernel.replay.advance,
            *kernel.absorbed,
            *kernel.advance,
            *writes,
        ]

    def _block(self, state: Array) -> Buffer:
        """The array of a state before each row of a block and after the last."""
        one = self.rows.buffer(f"{state.name} block", state.kind, state.indices)
        self.rows.made[-1] = Buffer(
            one.name, one.kind, one.indices, one.strides, f"{self.kernel.every + 1} * ({one.size})"
        )
        return one

    # --- Before the rows --------------------------------------------------------------------------

    def _begun(self, scope: Scope) -> tuple[list[str], Scope]:
        kernel = self.kernel
        lines: list[str] = []
        scope = self.lets(self.rows, scope, kernel.grid_values, lines)
        lines += self.rows.stage(scope, kernel.initial)
        lines += self.rows.stage(scope, self._every(), constant=True)
        for array, first in zip(kernel.carried, kernel.initial, strict=True):
            self.rows.fill(scope, self.rows.buffers[array.name], first, lines)
        added = {one.array.name: one.array for one in (*kernel.writes, *kernel.ended) if one.adds}
        for array in added.values():
            lines += self._cleared(scope, array)
        return lines, scope

    def _cleared(self, scope: Scope, array: Array) -> list[str]:
        """The instance's own part of an array that is added to, zero."""
        outer = len(self.grid)
        sizes = [self.slots_length(index) for index in array.indices[outer:]]
        parts = [
            f"{scope.rows[index]} * {self.fields.stride(array, place)}"
            for place, index in enumerate(array.indices[:outer])
        ]
        pointer = f"const_cast<Acc*>({self.fields.pointer(array)}) + {' + '.join(parts) or '0'}"
        return [f"clear({pointer}, {' * '.join(sizes) or '1'});"]

    def slots_length(self, index: Index) -> str:
        return self.fields.length(index.axis)

    # --- Blocks -----------------------------------------------------------------------------------

    def _blocks(self, scope: Scope, lines: list[str]) -> list[str]:
        every = self.kernel.every
        names = self.rows.names
        block, first, count, at, time = (
            names.fresh(x) for x in ("block", "first", "rows", "at", self.time.name)
        )
        length = self.fields.length(self.time.axis)
        loaded = self._loaded(scope, block)
        rows = self._pointers(at)
        replay = self._replayed(scope, time)
        back = self._backward(scope, time)
        start = f"const int64_t {time} = {first} + {at};"
        return nested(
            [f"for (int64_t {block} = ({length} + {every - 1}) / {every}; {block}-- > 0;) {{"],
            [
                f"const int64_t {first} = {block} * {every};",
                f"const int64_t {count} = minimum(int64_t({every}), {length} - {first});",
                *loaded,
                *nested(
                    [f"for (int64_t {at} = 0; {at} < {count}; {at}++) {{"], [start, *rows, *replay]
                ),
                *nested([f"for (int64_t {at} = {count}; {at}-- > 0;) {{"], [start, *rows, *back]),
            ],
        )

    def _loaded(self, scope: Scope, row: str) -> list[str]:
        """The states of a checkpoint, before the first row of the block."""
        lines: list[str] = []
        places = {state.name: n for n, state in enumerate(self.kernel.replay.states)}
        for one in self.kernel.checkpoints:
            block = self._block_index(one)
            printer = self.rows.fork()
            inner = printer.placed(scope, block, row)
            node = read(one.array, map(position, one.array.indices))
            lines += printer.load(inner, node, self.blocks[places[one.state.name]])
        return lines

    def _block_index(self, one: Checkpoint) -> Index:
        return one.array.indices[len(self.grid)]

    def _pointers(self, at: str) -> list[str]:
        """A row's states before and after it."""
        lines = []
        replay = self.kernel.replay
        for state, twin, block in zip(replay.states, self.kernel.twins, self.blocks, strict=True):
            for array, ahead in ((state, 0), (twin, 1)):
                name = self.rows.names.fresh(array.name)
                row = f"({at} + 1)" if ahead else at
                lines.append(
                    f"[[maybe_unused]] {KEPT[block.kind]}* const {name} = "
                    f"{block.name} + {row} * ({block.size});"
                )
                self.rows.buffers[array.name] = Buffer(
                    name, block.kind, block.indices, block.strides, block.size
                )
        return lines

    def _replayed(self, scope: Scope, time: str) -> list[str]:
        """The states of a block once more, and gradients that need no cotangent of theirs."""
        kernel, replay, rows = self.kernel, self.kernel.replay, self.rows.fork()
        lines: list[str] = []
        scope = rows.placed(scope, self.time, time)
        passes = RowPasses(rows)
        self.planned(passes, replay.inside)
        twins = [(twin.name, rows.buffers[twin.name]) for twin in kernel.twins]
        self.carried(
            passes, [(*one, expr) for one, expr in zip(twins, replay.advance, strict=True)]
        )
        self.planned(passes, kernel.inside)
        self._writes(passes, self.early)
        passes.print(scope, lines, (twin.name for twin in kernel.twins))
        return lines

    def _backward(self, scope: Scope, time: str) -> list[str]:
        kernel, rows = self.kernel, self.rows.fork()
        lines: list[str] = []
        scope = rows.placed(scope, self.time, time)
        passes = RowPasses(rows)
        self.planned(passes, kernel.inside)
        self.carried(passes, self._changed(rows, kernel.absorbed))
        self.planned(passes, kernel.given)
        self._writes(passes, [write for write in kernel.writes if write not in self.early])
        self.carried(passes, self._changed(rows, kernel.advance))
        passes.print(scope, lines, (array.name for array in kernel.carried))
        return lines

    def _writes(self, passes: RowPasses, writes: Iterable[RowWrite]) -> None:
        for write in writes:

            def emit(scope: Scope, lines: list[str], write: RowWrite = write) -> Scope:
                lines += self._written(passes.rows, scope, write)
                return scope

            passes.other(write_parts(write), emit)

    @cached_property
    def early(self) -> tuple[RowWrite, ...]:
        """Gradients of states alone, not of their cotangents: written where the states are
        computed again, so that they are not loaded once more."""
        return early_writes(self.kernel)

    def _ended(self, scope: Scope) -> list[str]:
        kernel, rows = self.kernel, self.rows.fork()
        lines: list[str] = []
        scope = self.lets(rows, scope, kernel.last, lines)
        self._carry(rows, scope, kernel.ending, lines)
        for write in kernel.ended:
            lines += self._written(rows, scope, write)
        for final in kernel.finals:
            lines += self.last(rows, scope, final)
        return nested(["{"], lines)

    def _carry(
        self, rows: RowPrinter, scope: Scope, exprs: Iterable[Expr], lines: list[str]
    ) -> None:
        """What is carried becomes these expressions, where they are others."""
        self.assign(rows, scope, [one[1:] for one in self._changed(rows, exprs)], lines)

    def _changed(self, rows: RowPrinter, exprs: Iterable[Expr]) -> list[tuple[str, Buffer, Expr]]:
        """What is carried and becomes another expression."""
        return [
            (array.name, rows.buffers[array.name], expr)
            for array, expr in zip(self.kernel.carried, exprs, strict=True)
            if expr != read(array, map(position, array.indices))
        ]

    # --- Gradients --------------------------------------------------------------------------------

    def _written(self, rows: RowPrinter, scope: Scope, write: RowWrite) -> list[str]:
        lines = [*rows.stage(scope, write_parts(write)), f"// {write.array.name}"]
        place = self._straight(write)
        if place is None:
            body = self._entries(rows, scope, write)
        else:
            body = self._lines(rows, scope, write, place)
        if write.array.role == "output":
            return [*lines, *guarded(self.fields.pointer(write.array), body)]
        return [*lines, *nested(["{"], body)]

    def _straight(self, write: RowWrite) -> int | None:
        """The dimension along which whole lines are written: the last, if an index of a width
        walks it and nothing else says where."""
        if not write.at:
            return None
        last = write.at[-1]
        if last.op != "index" or last.attr not in write.over:
            return None
        assert isinstance(last.attr, Index)
        others = [*write.at[:-1], *((write.condition,) if write.condition else ())]
        free = any(last.attr in one.free for one in others)
        sized = all(self.slots.width(index.axis) is not None for index in write.over)
        return None if free or not sized else len(write.at) - 1

    def _lines(self, rows: RowPrinter, scope: Scope, write: RowWrite, place: int) -> list[str]:
        """Line by line along the last dimension."""
        last = write.at[place].attr
        assert isinstance(last, Index)
        outer = [index for index in write.over if index != last]
        buffer = self._last_along(rows, write, last, outer)
        lines: list[str] = []
        rows.fill(scope, buffer, write.term, lines)
        printer = rows.printer(scope)
        heads, inner, base = printer.loops(buffer.indices[:-1])
        below = printer.within(inner, {**base, last: "0"})
        node = read(write.array, write.at)
        for at in write.at[:-1]:
            below.text(at)
        pointer, guard, offset = below.address(node, skip=place)
        test = self._test(below, write, guard)
        kind = self.slots.types[write.array.name]
        how = "add_row" if write.adds else "put_row"
        stride = self.fields.stride(write.array, place)
        target = f"const_cast<{kind}*>({pointer}) + {offset}"
        row = f"{buffer.name} + {below.offset(buffer)}"
        store = f"{how}({target}, {stride}, {row}, {self.fields.length(last.axis)});"
        return [*lines, *nested(heads, [*below.lines, *nested(test, [store])])]

    @staticmethod
    def _last_along(
        rows: RowPrinter, write: RowWrite, last: Index, outer: Sequence[Index]
    ) -> Buffer:
        """An array whose last axis in memory is that of the tensor."""
        bound, rows.bound = rows.bound, frozenset()
        buffer = rows.buffer(write.array.name, write.term.kind, (*outer, last))
        rows.bound = bound
        return buffer

    def _entries(self, rows: RowPrinter, scope: Scope, write: RowWrite) -> list[str]:
        """Entry by entry."""
        lines: list[str] = []
        if not write.over:
            term = rows.scalar(scope, write.term, lines)
            below = rows.printer(scope)
            heads: list[str] = []
        else:
            printer = rows.printer(scope)
            heads, inner, base = printer.loops(write.over)
            below = printer.within(inner, base)
            term = below.text(write.term)
        for at in write.at:
            below.text(at)
        pointer, guard, offset = below.address(read(write.array, write.at), skip=-1)
        test = self._test(below, write, guard)
        kind = self.slots.types[write.array.name]
        value = unwrapped(term)
        entry = f"const_cast<{kind}*>({pointer})[{offset}]"
        store = f"{entry} += {value};" if write.adds else f"{entry} = narrow<{kind}>({value});"
        return [*lines, *nested(heads, [*below.lines, *nested(test, [store])])]

    @staticmethod
    def _test(printer: object, write: RowWrite, guard: str) -> list[str]:
        """The condition of a write, and that it is within its array."""
        tests = [] if guard == "true" else [guard]
        if write.condition is not None:
            tests.append(unwrapped(printer.text(write.condition)))  # type: ignore[attr-defined]
        return [f"if ({' && '.join(tests)}) {{"] if tests else []
