"""Prints a scan kernel in its sequential form as C++: one instance of the grid walks time, its
states and the values of a row in arrays that stay in cache.

How arrays are laid out and filled: cpu_rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.backends.cpu_lanes import KEPT
from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_printer import INSTEAD, TYPES, Scope, unwrapped
from attnc.backends.cpu_rows import RowPrinter, nested

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, postorder
from attnc.schedule import Final, Let, ScanKernel, Store


@dataclass(frozen=True)
class ScanText:
    """What the template prints of a scan kernel."""

    title: str
    name: str
    fields: tuple[str, ...]
    arrays: tuple[str, ...]
    places: tuple[str, ...]
    pointers: tuple[str, ...]
    grid_count: str
    enter: tuple[str, ...]
    begin: tuple[str, ...]
    row: tuple[str, ...]
    end: tuple[str, ...]
    time: str
    length: str


@dataclass
class ScanPrinter:
    kernel: ScanKernel
    slots: Slots
    identifier: str
    fields: GridFields = field(init=False)
    rows: RowPrinter = field(init=False)

    def print(self) -> ScanText:
        kernel, loop = self.kernel, self.kernel.loop
        if loop.inner is not None:
            raise UnsupportedError("a scan in chunks", "cpu", INSTEAD)
        self.fields = GridFields(self.slots, kernel.grid)
        names = Names({"grid", "arrays", "count", "begin", "call", "instance", "worker"})
        bound = self._bound_axes()
        self.rows = RowPrinter(self.slots, self.fields, kernel.grid, loop.time, bound, names)
        count = self._enter()
        scope = Scope(self.fields, names)
        for index in kernel.grid:
            scope = self.rows.placed(scope, index, self.fields.row(index))
        for state in loop.states:
            self.rows.buffers[state.name] = self.rows.buffer(state.name, state.kind, state.indices)
        begin, scope = self._begin(scope)
        time = self.rows.names.fresh(loop.time.name)
        row = self._row(self.rows.placed(scope, loop.time, time))
        length = self.fields.length(loop.time.axis)
        end = [line for final in kernel.finals for line in self._final(scope, final)]
        return ScanText(
            title=f"{kernel.name}: {', '.join(state.name for state in loop.states)} row by row",
            name=self.identifier,
            fields=tuple(self.fields.declarations),
            arrays=tuple(f"{KEPT[b.kind]}* {b.name};" for b in self.rows.made),
            places=tuple(
                f"{b.name} = arena.take<{KEPT[b.kind]}>({b.size});" for b in self.rows.made
            ),
            pointers=tuple(f"auto* const {b.name} = arrays.{b.name};" for b in self.rows.made),
            grid_count=count,
            enter=tuple(self.fields.statements),
            begin=tuple(begin),
            row=tuple(row),
            end=tuple(end),
            time=time,
            length=length,
        )

    def _enter(self) -> str:
        counts = []
        for index in reversed(self.kernel.grid):
            length = self.slots.integer(f"len_{index.axis.name}")
            key = f"row {index.number} {index.name}"
            self.fields.add(key, "int64_t", f"{index.name} row", f"instance % {length}")
            self.fields.statements.append(f"instance /= {length};")
            counts.append(length)
        return " * ".join(counts) or "1"

    # --- Arrays -----------------------------------------------------------------------------------

    def _bound_axes(self) -> frozenset[str]:
        """The axes along which a fold over states runs."""
        loop = self.kernel.loop
        names = {state.name for state in loop.states}
        found = set()
        for let in (*loop.inside, *loop.after):
            assert isinstance(let, Let)
            for node in postorder(let.expr):
                inner = postorder(*node.args) if node.op == "fold" else ()
                if any(one.op == "read" and one.array.name in names for one in inner):
                    found |= {index.axis.name for index in node.bound}
        return frozenset(found)

    # --- Before the rows --------------------------------------------------------------------------

    def _begin(self, scope: Scope) -> tuple[list[str], Scope]:
        """Constants of the instance, and the states that it begins with."""
        kernel, loop = self.kernel, self.kernel.loop
        lines: list[str] = []
        for let in kernel.grid_values:
            scope = self._let(scope, let, lines)
        every = [
            *(let.expr for let in (*loop.inside, *loop.after) if isinstance(let, Let)),
            *loop.advance,
            *(store.expr for store in kernel.stores),
        ]
        lines += self.rows.stage(scope, loop.initial)
        lines += self.rows.stage(scope, every, constant=True)
        for state, first in zip(loop.states, loop.initial, strict=True):
            self.rows.fill(scope, self.rows.buffers[state.name], first, lines)
        return lines, scope

    # --- Statements -------------------------------------------------------------------------------

    def _row(self, scope: Scope) -> list[str]:
        loop, kernel = self.kernel.loop, self.kernel
        lines: list[str] = []
        for let in loop.inside:
            assert isinstance(let, Let)
            scope = self._let(scope, let, lines)
        self._advance(scope, lines)
        for let in loop.after:
            scope = self._let(scope, let, lines)
        for store in kernel.stores:
            self._store(scope, store, lines)
        return lines

    def _let(self, scope: Scope, let: Let, lines: list[str]) -> Scope:
        """A value: a scalar, or an array over its indices."""
        known = frozenset((*self.kernel.grid, self.kernel.loop.time))
        indices = let.expr.free - known
        lines += [*self.rows.stage(scope, [let.expr]), f"// {let.name}"]
        if not indices:
            text = self.rows.scalar(scope, let.expr, lines)
            name = self.rows.names.fresh(let.name)
            lines.append(f"const {TYPES[let.expr.kind]} {name} = {unwrapped(text)};")
            return scope.extended(values={let.name: name})
        order = sorted(indices, key=lambda i: (i.name, i.number))
        buffer = self.rows.buffer(let.name, let.expr.kind, order)
        self.rows.fill(scope, buffer, let.expr, lines)
        self.rows.buffers[let.name] = buffer
        return scope

    # --- States and results -----------------------------------------------------------------------

    def _advance(self, scope: Scope, lines: list[str]) -> None:
        """The states after the row; those over the same widths in one pass."""
        loop = self.kernel.loop
        lines += self.rows.stage(scope, loop.advance)
        groups: dict[tuple[Index, ...], list[tuple[Array, Expr]]] = {}
        for state, expr in zip(loop.states, loop.advance, strict=True):
            groups.setdefault(state.indices, []).append((state, expr))
        for indices, pairs in groups.items():
            lines.append(f"// {', '.join(state.name for state, _ in pairs)} after the row")
            made = [(self.rows.buffers[state.name], expr) for state, expr in pairs]
            if indices:
                lines += self.rows.pointwise(self.rows.printer(scope), made)
                continue
            texts = [(buffer, self.rows.scalar(scope, expr, lines)) for buffer, expr in made]
            held = [self.rows.names.fresh("next") for _ in texts]
            lines += [
                f"const auto {name} = {unwrapped(text)};"
                for name, (_, text) in zip(held, texts, strict=True)
            ]
            lines += [f"{b.name}[0] = {name};" for name, (b, _) in zip(held, texts, strict=True)]

    def _store(self, scope: Scope, store: Store, lines: list[str]) -> None:
        array, kind = store.array, self.slots.types[store.array.name]
        real = kind in ("Element", "Acc")
        offset = " + ".join(
            f"{scope.rows[index]} * {self.fields.stride(array, place)}"
            for place, index in enumerate(array.indices)
            if index != store.width
        )
        pointer = f"const_cast<{kind}*>({self.fields.pointer(array)}) + {offset or '0'}"
        lines += [*self.rows.stage(scope, [store.expr]), f"// {array.name}"]
        if store.width is None:
            text = self.rows.scalar(scope, store.expr, lines)
            text = f"narrow<{kind}>({unwrapped(text)})" if real else unwrapped(text)
            lines.append(f"*({pointer}) = {text};")
            return
        width = store.width
        buffer = self.rows.buffer(array.name, store.expr.kind, (width,))
        self.rows.fill(scope, buffer, store.expr, lines)
        stride = self.fields.stride(array, array.indices.index(width))
        size = self.fields.length(width.axis)
        lines.append(f"put_row({pointer}, {stride}, {buffer.name}, {size});")

    def _final(self, scope: Scope, final: Final) -> list[str]:
        """The last value of a state, where it is asked for."""
        buffer, array = self.rows.buffers[final.state.name], final.array
        kind, pointer = self.slots.types[array.name], self.fields.pointer(array)
        printer = self.rows.printer(scope)
        heads, inner, base = printer.loops(buffer.indices)
        below = printer.within(inner, base)
        rows = [
            below.scope.rows[at.attr] if isinstance(at.attr, Index) else below.text(at)
            for at in final.at
        ]
        parts = [f"{row} * {self.fields.stride(array, n)}" for n, row in enumerate(rows)]
        entry = f"const_cast<{kind}*>({pointer})[{' + '.join(parts) or '0'}]"
        value = f"{kind}({below.entry_at(buffer)})"
        return _guarded(pointer, nested(heads, [*below.lines, f"{entry} = {value};"]))


def _guarded(pointer: str, lines: Iterable[str]) -> list[str]:
    """The lines where the array is wanted."""
    return nested([f"if ({pointer}) {{"], lines)
