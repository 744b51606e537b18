"""Prints a scan kernel in its sequential form as C++: one instance of the grid walks time, its
states and the values of a row in arrays that stay in cache.

The last axis of every array lies along the lanes of a register; axes that folds over a state bind
come first, so that a matrix-vector product is a sum of rows. Inputs of a row are copied into such
arrays when the row begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.backends.cpu_lanes import KEPT, Buffer, LanePrinter
from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_printer import INSTEAD, TYPES, Scope, combined, identity, unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Array, Expr, position, postorder, substitute
from attnc.schedule import Final, Let, ScanKernel, Store

APART = 2_000_000  # numbers of indices that stand for any index of their axis


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
    names: Names = field(default_factory=lambda: Names({"grid", "arrays", "count", "first"}))
    buffers: dict[str, Buffer] = field(default_factory=dict)
    staged: dict[bytes, tuple[Buffer, tuple[Index, ...]]] = field(default_factory=dict)
    reads: dict[bytes, Buffer] = field(default_factory=dict)
    made: list[Buffer] = field(default_factory=list)

    def print(self) -> ScanText:
        kernel, loop = self.kernel, self.kernel.loop
        if loop.inner is not None:
            raise UnsupportedError("a scan in chunks", "cpu", INSTEAD)
        self.fields = GridFields(self.slots, kernel.grid)
        self.bound = self._bound_axes()
        count = self._enter()
        scope = Scope(self.fields, self.names)
        for index in kernel.grid:
            scope = self._placed(scope, index, self.fields.row(index))
        for state in loop.states:
            self.buffers[state.name] = self._buffer(state.name, state.kind, state.indices)
        begin, scope = self._begin(scope)
        time = self.names.fresh(loop.time.name)
        row = self._row(self._placed(scope, loop.time, time))
        length = self.fields.length(loop.time.axis)
        end = [line for final in kernel.finals for line in self._final(scope, final)]
        return ScanText(
            title=f"{kernel.name}: {', '.join(state.name for state in loop.states)} row by row",
            name=self.identifier,
            fields=tuple(self.fields.declarations),
            arrays=tuple(f"{KEPT[b.kind]}* {b.name};" for b in self.made),
            places=tuple(f"{b.name} = arena.take<{KEPT[b.kind]}>({b.size});" for b in self.made),
            pointers=tuple(f"auto* const {b.name} = arrays.{b.name};" for b in self.made),
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

    def _placed(self, scope: Scope, index: Index, row: str) -> Scope:
        at = LanePrinter(scope).placed(row, index)
        return scope.extended(positions={index: at}, rows={index: row})

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

    def _ordered(self, indices: Iterable[Index]) -> tuple[Index, ...]:
        """Axes in memory order: those that folds run along first."""
        return tuple(sorted(indices, key=lambda i: i.axis.name not in self.bound))

    def _buffer(self, wanted: str, kind: str, indices: Iterable[Index]) -> Buffer:
        order = self._ordered(indices)
        sizes = [self.fields.length(index.axis) for index in order]
        sizes = [*sizes[:-1], f"padded({sizes[-1]})"] if sizes else []
        strides = tuple(" * ".join(sizes[place + 1 :]) or "1" for place in range(len(sizes)))
        name = self.names.fresh(wanted)
        buffer = Buffer(name, kind, order, strides, " * ".join(sizes) or "1")
        self.made.append(buffer)
        return buffer

    def _printer(self, scope: Scope, lane: Index | None = None) -> LanePrinter:
        return LanePrinter(scope, [], {}, {}, buffers=self.buffers, staged=self.staged, lane=lane)

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
        lines += self._stage(scope, loop.initial)
        lines += self._stage(scope, every, constant=True)
        for state, first in zip(loop.states, loop.initial, strict=True):
            self._fill(scope, self.buffers[state.name], first, lines)
        return lines, scope

    def _stage(self, scope: Scope, exprs: Iterable[Expr], constant: bool = False) -> list[str]:
        """Copies of the inputs' entries that the expressions read, over widths alone; `constant`:
        only those that time does not move."""
        time = self.kernel.loop.time
        lines: list[str] = []
        for node in postorder(*exprs):
            if node.op != "read" or node.array.role != "input" or node.digest in self.staged:
                continue
            if constant and time in node.free:
                continue
            indices = tuple(node.free - frozenset(self.kernel.grid) - {time})
            if any(self.slots.width(index.axis) is None for index in indices):
                continue
            order = self._ordered(sorted(indices, key=lambda i: _first_place(node, i)))
            stand = {i: Index(i.axis.name, i.axis, APART + n) for n, i in enumerate(order)}
            key = substitute(node, {i: position(other) for i, other in stand.items()}).digest
            if key not in self.reads:
                self.reads[key] = self._taken(scope, node, order, lines)
            self.staged[node.digest] = (self.reads[key], order)
        return lines

    def _taken(
        self, scope: Scope, node: Expr, order: tuple[Index, ...], lines: list[str]
    ) -> Buffer:
        """A read of an input as an array, or as a number."""
        if order:
            buffer = self._buffer(node.array.name, node.kind, order)
            lines += self._copy(scope, node, buffer)
            return buffer
        printer = self._printer(scope)
        text = printer.read_input(node)
        name = self.names.fresh(node.array.name)
        lines += [*printer.lines, f"const auto {name} = {text};"]
        return Buffer(name, node.kind, (), (), "1", scalar=True)

    def _copy(self, scope: Scope, node: Expr, buffer: Buffer) -> list[str]:
        """A read's entries into an array; row by row where the last axis is walked straight."""
        printer = self._printer(scope)
        last = buffer.indices[-1] if buffer.indices else None
        straight = [at.op == "index" and at.attr == last for at in node.args]
        uses = sum(last in at.free for at in node.args)
        if last is None or sum(straight) != 1 or uses != 1:
            heads, inner, base = printer.loops(buffer.indices)
            below = printer.within(inner, base)
            text = below.read_input(node)
            target = below.entry_at(buffer)
            body = [*below.lines, f"{target} = {KEPT[buffer.kind]}({unwrapped(text)});"]
            return _nested(heads, body)
        heads, inner, base = printer.loops(buffer.indices[:-1])
        below = printer.within(inner, {**base, last: "0"})
        place = straight.index(True)
        pointer, guard, offset = below.address(node, skip=place)
        stride = self.fields.stride(node.array, place)
        width = self.fields.length(last.axis)
        target = f"{buffer.name} + {below.offset(buffer)}"
        call = f"take_row({target}, {pointer}, {guard}, {offset}, {stride}, {width});"
        return _nested(heads, [*below.lines, call])

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
        lines += [*self._stage(scope, [let.expr]), f"// {let.name}"]
        if not indices:
            text = self._scalar(scope, let.expr, lines)
            name = self.names.fresh(let.name)
            lines.append(f"const {TYPES[let.expr.kind]} {name} = {unwrapped(text)};")
            return scope.extended(values={let.name: name})
        order = sorted(indices, key=lambda i: (i.name, i.number))
        buffer = self._buffer(let.name, let.expr.kind, order)
        self._fill(scope, buffer, let.expr, lines)
        self.buffers[let.name] = buffer
        return scope

    def _scalar(self, scope: Scope, expr: Expr, lines: list[str]) -> str:
        """One number; a fold along a width runs in lanes."""
        bound = self._along(expr) if expr.op == "fold" else None
        if bound is not None:
            return self._across(self._printer(scope), expr, bound, lines)
        printer = self._printer(scope)
        text = printer.text(expr)
        lines += printer.lines
        return text

    def _fill(self, scope: Scope, buffer: Buffer, expr: Expr, lines: list[str]) -> None:
        """Every entry of an array."""
        printer = self._printer(scope)
        if not buffer.indices:
            text = self._scalar(scope, expr, lines)
            lines.append(f"{buffer.name}[0] = {unwrapped(text)};")
            return
        last = buffer.indices[-1]
        if expr.op == "fold":
            bound = self._along(expr)
            if bound is not None and not self._runs_along(expr, last):
                heads, inner, base = printer.loops(buffer.indices)
                body: list[str] = []
                below = printer.within(inner, base)
                text = self._across(below, expr, bound, body)
                body.append(f"{below.entry_at(buffer)} = {unwrapped(text)};")
                lines += _nested(heads, body)
                return
            lines += self._summed(printer, buffer, expr)
            return
        lines += self._pointwise(printer, [(buffer, expr)])

    def _pointwise(self, printer: LanePrinter, pairs: list[tuple[Buffer, Expr]]) -> list[str]:
        """Arrays of the same axes, entry by entry, all from old values."""
        indices = pairs[0][0].indices
        heads, scope, base = printer.loops(indices[:-1])
        last = indices[-1]
        first = self.names.fresh(last.name)
        heads.append(
            f"for (int64_t {first} = 0; {first} < {self.fields.length(last.axis)}; "
            f"{first} += LANES) {{"
        )
        below = self._laned(printer.within(scope, base), last, first)
        texts = [(buffer, below.text(expr)) for buffer, expr in pairs]
        stores = [
            f"keep_lanes({buffer.name} + {below.offset(buffer)}, spread({unwrapped(text)}));"
            for buffer, text in texts
        ]
        return _nested(heads, [*below.lines, *stores])

    def _laned(self, printer: LanePrinter, lane: Index, first: str) -> LanePrinter:
        """The printer with an index along the lanes from row `first`."""
        printer.lane = lane
        printer.base[lane] = first
        lanes = f"iota({first})"
        row = printer.scope.names.fresh(f"{lane.name} lanes")
        printer.lines.append(f"[[maybe_unused]] const Integer {row} = {lanes};")
        scope = printer.scope.extended(
            positions={lane: printer.placed(row, lane)}, rows={lane: row}
        )
        printer.scope = scope.renamed(scope.names, lanes=True)
        return printer

    def _summed(self, printer: LanePrinter, buffer: Buffer, node: Expr) -> list[str]:
        """A fold for each entry of an array, registers of entries at a time."""
        kind = "int" if node.kind == "bool" else node.kind
        unit = identity(node.monoid, kind)
        last = buffer.indices[-1]
        outer, scope, base = printer.loops(buffer.indices[:-1])
        sums, turn, first = (self.names.fresh(x) for x in ("sums", "turn", last.name))
        held = {"real": "Real", "int": "Integer"}[kind]
        width = self.fields.length(last.axis)
        inner, within, bases = printer.within(scope, base).loops(node.bound)
        below = self._laned(printer.within(within, {**base, **bases}), last, first)
        add = _added(below, node, kind, unit, f"{sums}[{turn}]")
        each = f"ATTNC_UNROLL for (int {turn} = 0; {turn} < count; {turn}++) {{"
        at = f"const int64_t {first} = begin + {turn} * LANES;"
        target = f"{buffer.name} + {below.offset(buffer)}"
        body = [
            f"{held} {sums}[count];",
            f"for (int {turn} = 0; {turn} < count; {turn}++) {sums}[{turn}] = {held}({unit});",
            *_nested([*inner, each], [at, *below.lines, add]),
            *_nested([each], [at, f"keep_lanes({target}, {sums}[{turn}]);"]),
        ]
        head = f"blocks<{width}>([&](auto count, int64_t begin) {{"
        return _nested(outer, [head, *(f"    {line}" for line in body), "});"])

    def _across(self, printer: LanePrinter, node: Expr, lane: Index, lines: list[str]) -> str:
        """A fold to one number, its elements along the lanes."""
        kind = node.kind
        unit = identity(node.monoid, kind)
        total = self.names.fresh(node.monoid)
        lines.append(f"Real {total}({unit});")
        heads, scope, base = printer.loops(i for i in node.bound if i != lane)
        first = self.names.fresh(lane.name)
        width = self.fields.length(lane.axis)
        heads.append(f"for (int64_t {first} = 0; {first} < {width}; {first} += LANES) {{")
        below = self._laned(printer.within(scope, base), lane, first)
        term = below.term(node, kind, unit)
        row = below.scope.rows[lane]
        ending = f"if constexpr ({width} % LANES != 0) "
        term_name = below.bind("term", f"spread({unwrapped(term)})")
        kept = below.scope.names.fresh("kept")
        below.lines += [
            f"Real {kept} = {term_name};",
            f"{ending}{kept} = select({row} < Integer({width}), {kept}, Real({unit}));",
            f"{total} = {combined(node.monoid, total, kept)};",
        ]
        lines += _nested(heads, below.lines)
        return f"across({total}, join_{node.monoid})"

    def _along(self, node: Expr) -> Index | None:
        """The bound index that can lie along the lanes: the last axis of what the fold reads."""
        if node.kind != "real" or any(below.op == "fold" for below in postorder(*node.args)):
            return None
        for index in reversed(node.bound):
            if self.slots.width(index.axis) and self._runs_along(node, index):
                return index
        return None

    def _runs_along(self, node: Expr, index: Index) -> bool:
        """Whether the largest arrays under the node have the index as their last axis."""
        best, found = 0, False
        for below in postorder(*node.args):
            indices = self._axes_of(below)
            if len(indices) >= best and indices:
                found = (found and len(indices) == best) or indices[-1] == index
                best = len(indices)
        return found

    def _axes_of(self, node: Expr) -> tuple[Index, ...]:
        """The indices at the axes of the array that a node reads, in memory order."""
        if node.digest in self.staged:
            return self.staged[node.digest][1]
        if node.op == "value":
            buffer = self.buffers.get(str(node.attr))
            return buffer.indices if buffer else ()
        if node.op == "read" and node.array.role != "input":
            places = dict(zip(node.array.indices, node.args, strict=True))
            order = [places[index].attr for index in self.buffers[node.array.name].indices]
            return tuple(at for at in order if isinstance(at, Index))
        return ()

    # --- States and results -----------------------------------------------------------------------

    def _advance(self, scope: Scope, lines: list[str]) -> None:
        """The states after the row; those over the same widths in one pass."""
        loop = self.kernel.loop
        lines += self._stage(scope, loop.advance)
        groups: dict[tuple[Index, ...], list[tuple[Array, Expr]]] = {}
        for state, expr in zip(loop.states, loop.advance, strict=True):
            groups.setdefault(state.indices, []).append((state, expr))
        for indices, pairs in groups.items():
            lines.append(f"// {', '.join(state.name for state, _ in pairs)} after the row")
            made = [(self.buffers[state.name], expr) for state, expr in pairs]
            if indices:
                lines += self._pointwise(self._printer(scope), made)
                continue
            texts = [(buffer, self._scalar(scope, expr, lines)) for buffer, expr in made]
            held = [self.names.fresh("next") for _ in texts]
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
        lines += [*self._stage(scope, [store.expr]), f"// {array.name}"]
        if store.width is None:
            text = self._scalar(scope, store.expr, lines)
            text = f"narrow<{kind}>({unwrapped(text)})" if real else unwrapped(text)
            lines.append(f"*({pointer}) = {text};")
            return
        width = store.width
        buffer = self._buffer(array.name, store.expr.kind, (width,))
        self._fill(scope, buffer, store.expr, lines)
        stride = self.fields.stride(array, array.indices.index(width))
        size = self.fields.length(width.axis)
        lines.append(f"put_row({pointer}, {stride}, {buffer.name}, {size});")

    def _final(self, scope: Scope, final: Final) -> list[str]:
        """The last value of a state, where it is asked for."""
        buffer, array = self.buffers[final.state.name], final.array
        kind, pointer = self.slots.types[array.name], self.fields.pointer(array)
        printer = self._printer(scope)
        heads, inner, base = printer.loops(buffer.indices)
        below = printer.within(inner, base)
        rows = [
            below.scope.rows[at.attr] if isinstance(at.attr, Index) else below.text(at)
            for at in final.at
        ]
        parts = [f"{row} * {self.fields.stride(array, n)}" for n, row in enumerate(rows)]
        entry = f"const_cast<{kind}*>({pointer})[{' + '.join(parts) or '0'}]"
        value = f"{kind}({below.entry_at(buffer)})"
        return _guarded(pointer, _nested(heads, [*below.lines, f"{entry} = {value};"]))


def _guarded(pointer: str, lines: Iterable[str]) -> list[str]:
    """The lines where the array is wanted."""
    return _nested([f"if ({pointer}) {{"], lines)


def _nested(heads: Iterable[str], body: Iterable[str]) -> list[str]:
    """The body within loops."""
    opened = list(heads)
    if not opened:
        return list(body)
    return [*opened, *(f"    {line}" for line in body), *("}" for _ in opened)]


def _added(printer: LanePrinter, node: Expr, kind: str, unit: str, into: str) -> str:
    """The statement that adds an element to a register; a product and the sum in one operation."""
    condition, body = node.args
    if node.monoid == "sum" and kind == "real" and condition == TRUE and body.op == "mul":
        printer.text(body)
        if all(arg.kind == "real" for arg in body.args):
            x, y = (f"spread({unwrapped(printer.done[arg.digest])})" for arg in body.args)
            return f"{into} = fused({x}, {y}, {into});"
    term = f"spread({unwrapped(printer.term(node, kind, unit))})"
    return f"{into} = {combined(node.monoid, into, term)};"


def _first_place(node: Expr, index: Index) -> int:
    return next(place for place, at in enumerate(node.args) if index in at.free)
