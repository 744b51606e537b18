"""Prints a scan kernel in its sequential form as C++: one instance of the grid walks time, its
states and the values of a row in arrays that stay in cache.

How arrays are laid out and filled: cpu_rows.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from attnc.backends.cpu_lanes import KEPT, Buffer
from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_passes import RowPasses
from attnc.backends.cpu_rows import RowPrinter, nested
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_words import INSTEAD, TYPES, unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, position, postorder
from attnc.schedule.scans import Checkpoint, Final, ScanKernel, ScanLoop, Shares
from attnc.schedule.statements import Let, Store

SHARED_ROWS = 64  # a share of the rows begins at a multiple of these


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
    work: str
    enter: tuple[str, ...]
    walk: tuple[str, ...]
    shares: SharesText | None = None


@dataclass(frozen=True)
class SharesText:
    """What the template prints of a kernel whose rows may be shared: the length of time, the rows
    at whose multiples a share may begin, and the bodies of two more functions."""

    length: str
    every: int
    summed: tuple[str, ...]
    joined: tuple[str, ...]


@dataclass
class InstancePrinter:
    """What kernels share in which an instance of a grid walks rows."""

    grid: tuple[Index, ...]
    time: Index
    slots: Slots
    identifier: str
    fields: GridFields = field(init=False)
    rows: RowPrinter = field(init=False)

    def begin(self, bound: frozenset[str]) -> tuple[str, Scope]:
        """How many instances there are, and the scope of one."""
        self.fields = GridFields(self.slots, self.grid)
        names = Names({"grid", "arrays", "count", "begin", "call", "instance", "worker"})
        self.rows = RowPrinter(self.slots, self.fields, self.grid, self.time, bound, names)
        count = self.fields.enter(self.grid)
        scope = Scope(self.fields, names)
        for index in self.grid:
            scope = self.rows.placed(scope, index, self.fields.row(index))
        return count, scope

    def finished(self, title: str, count: str, walk: Iterable[str]) -> ScanText:
        """The text of the kernel whose statements are `walk`."""
        made = self.rows.made
        sizes = " + ".join(buffer.size for buffer in made) or "1"
        return ScanText(
            title=title,
            name=self.identifier,
            fields=self.fields.declared(),
            arrays=tuple(f"{KEPT[b.kind]}* {b.name};" for b in made),
            places=tuple(f"{b.name} = arena.take<{KEPT[b.kind]}>({b.size});" for b in made),
            pointers=tuple(_pointer(buffer, "arrays") for buffer in made),
            grid_count=count,
            work=f"{self.slots.length(self.time.axis)} * ({sizes})",
            enter=self.fields.entered(),
            walk=tuple(walk),
        )

    # --- Statements -------------------------------------------------------------------------------

    def lets(
        self, rows: RowPrinter, scope: Scope, lets: Iterable[object], lines: list[str]
    ) -> Scope:
        """Values in their order: scalars, or arrays over their indices."""
        for let in lets:
            assert isinstance(let, Let)
            scope = self._let(rows, scope, let, lines)
        return scope

    def _let(self, rows: RowPrinter, scope: Scope, let: Let, lines: list[str]) -> Scope:
        known = frozenset((*self.grid, self.time))
        indices = let.expr.free - known
        lines += [*rows.stage(scope, [let.expr]), f"// {let.name}"]
        if not indices:
            text = rows.scalar(scope, let.expr, lines)
            name = rows.names.fresh(let.name)
            lines.append(f"const {TYPES[let.expr.kind]} {name} = {unwrapped(text)};")
            return scope.extended(values={let.name: name})
        order = sorted(indices, key=lambda i: (i.name, i.number))
        buffer = rows.buffer(let.name, let.expr.kind, order)
        rows.fill(scope, buffer, let.expr, lines)
        rows.buffers[let.name] = buffer
        return scope

    def assign(
        self, rows: RowPrinter, scope: Scope, pairs: Sequence[tuple[Buffer, Expr]], lines: list[str]
    ) -> None:
        """Arrays from expressions, all of old values; those over the same widths in one pass."""
        lines += rows.stage(scope, [expr for _, expr in pairs])
        groups: dict[tuple[Index, ...], list[tuple[Buffer, Expr]]] = {}
        for buffer, expr in pairs:
            groups.setdefault(buffer.indices, []).append((buffer, expr))
        for indices, made in groups.items():
            if indices:
                lines += rows.pointwise(rows.printer(scope), made)
                continue
            texts = [(buffer, rows.scalar(scope, expr, lines)) for buffer, expr in made]
            held = [rows.names.fresh("next") for _ in texts]
            lines += [
                f"const auto {name} = {unwrapped(text)};"
                for name, (_, text) in zip(held, texts, strict=True)
            ]
            lines += [f"{b.name}[0] = {name};" for name, (b, _) in zip(held, texts, strict=True)]

    def planned(self, passes: RowPasses, lets: Iterable[object]) -> None:
        """Values of a row among its statements."""
        for let in lets:
            assert isinstance(let, Let)

            def emit(scope: Scope, lines: list[str], let: Let = let) -> Scope:
                return self._let(passes.rows, scope, let, lines)

            passes.let(let.name, let.expr, emit)

    def carried(self, passes: RowPasses, pairs: Iterable[tuple[str, Buffer, Expr]]) -> None:
        """Carried arrays among the statements of a row, all from old values: those over the same
        widths together."""
        groups: dict[tuple[Index, ...], list[tuple[str, Buffer, Expr]]] = {}
        for name, buffer, expr in pairs:
            groups.setdefault(buffer.indices, []).append((name, buffer, expr))
        for made in groups.values():
            own = [(buffer, expr) for _, buffer, expr in made]

            def emit(scope: Scope, lines: list[str], own: list[tuple[Buffer, Expr]] = own) -> Scope:
                self.assign(passes.rows, scope, own, lines)
                return scope

            passes.assign(made, emit)

    def last(self, rows: RowPrinter, scope: Scope, final: Final) -> list[str]:
        """The value of a carried array where a result wants it, if it is asked for."""
        buffer, array = rows.buffers[final.state.name], final.array
        kind, pointer = self.slots.types[array.name], self.fields.pointer(array)
        printer = rows.printer(scope)
        heads, inner, base = printer.loops(buffer.indices)
        below = printer.within(inner, base)
        places = [
            below.scope.rows[at.attr] if isinstance(at.attr, Index) else below.text(at)
            for at in final.at
        ]
        parts = [f"{row} * {self.fields.stride(array, n)}" for n, row in enumerate(places)]
        entry = f"const_cast<{kind}*>({pointer})[{' + '.join(parts) or '0'}]"
        value = (
            f"{'narrow<' + kind + '>' if buffer.kind == 'real' else kind}({below.entry_at(buffer)})"
        )
        return guarded(pointer, nested(heads, [*below.lines, f"{entry} = {value};"]))


def folded_axes(exprs: Iterable[Expr], names: Container[str]) -> frozenset[str]:
    """The axes along which a fold over one of the named arrays runs."""
    found = set()
    for expr in exprs:
        for node in postorder(expr):
            inner = postorder(*node.args) if node.op == "fold" else ()
            if any(one.op == "read" and one.array.name in names for one in inner):
                found |= {index.axis.name for index in node.bound}
    return frozenset(found)


class ScanPrinter(InstancePrinter):
    """Prints a scan kernel, one row after another."""

    def __init__(self, kernel: ScanKernel, slots: Slots, identifier: str) -> None:
        super().__init__(kernel.grid, kernel.loop.time, slots, identifier)
        self.kernel = kernel

    def print(self) -> ScanText:
        kernel, loop = self.kernel, self.kernel.loop
        if loop.inner is not None:
            raise UnsupportedError("a scan in chunks", "cpu", INSTEAD)
        lets = [one.expr for one in (*loop.inside, *loop.after) if isinstance(one, Let)]
        count, scope = self.begin(folded_axes(lets, {state.name for state in loop.states}))
        self._buffers(loop.states)
        summed = self.rows.fork()
        begin, inner = self._begin(scope)
        time, first, last = map(self.rows.names.fresh, (loop.time.name, "first", "last"))
        row = self._row(self.rows.placed(inner, loop.time, time), time)
        end = [line for final in kernel.finals for line in self.last(self.rows, inner, final)]
        if kernel.shares is not None and end:
            end = nested([f"if ({last} == {self.fields.length(loop.time.axis)}) {{"], end)
        walk = [*begin, *nested([_rows(time, first, last)], row), *end]
        if kernel.shares is None:
            walk = [
                f"const int64_t {first} = 0, {last} = {self.fields.length(loop.time.axis)};",
                *walk,
            ]
        else:
            walk = [f"const int64_t {first} = from, {last} = to;", *walk]
        title = f"{kernel.name}: {', '.join(state.name for state in loop.states)} row by row"
        shares = self._shares(kernel.shares, summed, scope) if kernel.shares is not None else None
        return replace(self.finished(title, count, walk), shares=shares)

    def _buffers(self, states: Iterable[Array]) -> None:
        for state in states:
            self.rows.buffers[state.name] = self.rows.buffer(state.name, state.kind, state.indices)

    # --- Before the rows --------------------------------------------------------------------------

    def _begin(self, scope: Scope) -> tuple[list[str], Scope]:
        """Constants of the instance, and the states that it begins with."""
        kernel, loop = self.kernel, self.kernel.loop
        lines, scope = self._constants(self.rows, scope, kernel.grid_values, loop, kernel.stores)
        first = self.rows.stage(scope, loop.initial)
        for state, expr in zip(loop.states, loop.initial, strict=True):
            self.rows.fill(scope, self.rows.buffers[state.name], expr, first)
        return [
            *lines,
            *(first if kernel.shares is None else nested(["if (from == 0) {"], first)),
        ], scope

    def _constants(
        self,
        rows: RowPrinter,
        scope: Scope,
        values: Iterable[Let],
        loop: ScanLoop,
        stores: Iterable[Store] = (),
    ) -> tuple[list[str], Scope]:
        """What a loop over rows finds at hand."""
        lines: list[str] = []
        scope = self.lets(rows, scope, values, lines)
        every = [
            *(let.expr for let in (*loop.inside, *loop.after) if isinstance(let, Let)),
            *loop.advance,
            *(store.expr for store in stores),
        ]
        lines += rows.stage(scope, every, constant=True)
        return lines, scope

    # --- Shares of the rows -----------------------------------------------------------------------

    def _shares(self, shares: Shares, rows: RowPrinter, scope: Scope) -> SharesText:
        """What the rows of a share do to the states before it, and the states after it."""
        loop, states = shares.loop, self.kernel.loop.states
        walked, self.rows = self.rows, rows
        self._buffers(loop.states)
        lines, inner = self._constants(rows, scope, shares.values, loop)
        for state, first in zip(loop.states, loop.initial, strict=True):
            rows.fill(inner, rows.buffers[state.name], first, lines)
        time = rows.names.fresh(loop.time.name)
        body: list[str] = []
        passes = RowPasses(rows)
        self.planned(passes, loop.inside)
        made = [(state.name, rows.buffers[state.name]) for state in loop.states]
        self.carried(passes, [(*one, expr) for one, expr in zip(made, loop.advance, strict=True)])
        passes.print(rows.placed(inner, loop.time, time), body, (s.name for s in loop.states))
        lines += nested([_rows(time, "from", "to")], body)
        ends = [rows.buffers[state.name] for state in loop.states]
        own = [rows.buffers[state.name] for state in states]
        joined = [_pointer(buffer, "arrays") for buffer in own]
        joined += [
            f"for (int64_t at = 0; at < {b.size}; at++) {b.name}[at] = before.{b.name}[at];"
            for b in own
        ]
        update = [_pointer(buffer, "before") for buffer in ends]
        self.assign(rows, scope, list(zip(own, shares.joined, strict=True)), update)
        joined += nested(["if (summed) {"], update)
        self.rows = walked
        length = self.slots.length(loop.time.axis)
        return SharesText(length, self.kernel.every or SHARED_ROWS, tuple(lines), tuple(joined))

    # --- Rows -------------------------------------------------------------------------------------

    def _row(self, scope: Scope, time: str) -> list[str]:
        loop, kernel = self.kernel.loop, self.kernel
        lines: list[str] = []
        for checkpoint in kernel.checkpoints:
            lines += self._checkpoint(scope, checkpoint, time)
        passes = RowPasses(self.rows)
        self.planned(passes, loop.inside)
        made = [(state.name, self.rows.buffers[state.name]) for state in loop.states]
        self.carried(passes, [(*one, expr) for one, expr in zip(made, loop.advance, strict=True)])
        self.planned(passes, loop.after)
        for store in kernel.stores:

            def emit(scope: Scope, lines: list[str], store: Store = store) -> Scope:
                self._store(scope, store, lines)
                return scope

            passes.other((store.expr,), emit)
        passes.print(scope, lines, (state.name for state in loop.states))
        return lines

    def _checkpoint(self, scope: Scope, one: Checkpoint, time: str) -> list[str]:
        """The state before a block of rows, kept."""
        every, blocks = self.kernel.every, [i for i in one.array.indices if i not in scope.rows]
        block = next(i for i in blocks if i not in one.state.indices)
        inner = scope.extended(rows={block: f"({time} / {every})"})
        at = tuple(map(position, one.array.indices))
        kept = self.last(self.rows, inner, Final(one.array, one.state, at))
        return nested([f"if ({time} % {every} == 0) {{"], kept)

    def _store(self, scope: Scope, store: Store, lines: list[str]) -> None:
        array, kind = store.array, self.slots.types[store.array.name]
        real = kind in ("Element", "Acc")
        offset = " + ".join(
            f"{scope.rows[index]} * {self.fields.stride(array, place)}"
            for place, index in enumerate(array.indices)
            if index != store.width
        )
        whole = self.fields.pointer(array)
        pointer = f"const_cast<{kind}*>({whole}) + {offset or '0'}"
        lines += [*self.rows.stage(scope, [store.expr]), f"// {array.name}"]
        if store.width is None:
            text = self.rows.scalar(scope, store.expr, lines)
            text = f"narrow<{kind}>({unwrapped(text)})" if real else unwrapped(text)
            lines += guarded(whole, [f"*({pointer}) = {text};"])
            return
        width = store.width
        buffer = self.rows.buffer(array.name, store.expr.kind, (width,))
        self.rows.fill(scope, buffer, store.expr, lines)
        stride = self.fields.stride(array, array.indices.index(width))
        size = self.fields.length(width.axis)
        lines += guarded(whole, [f"put_row({pointer}, {stride}, {buffer.name}, {size});"])


def _rows(time: str, first: str, last: str) -> str:
    return f"for (int64_t {time} = {first}; {time} < {last}; {time}++) {{"


def _pointer(buffer: Buffer, arrays: str) -> str:
    return f"auto* const {buffer.name} = {arrays}.{buffer.name};"


def guarded(pointer: str, lines: Iterable[str]) -> list[str]:
    """The lines where the array is wanted."""
    return nested([f"if ({pointer}) {{"], lines)
