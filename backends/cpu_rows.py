"""Prints the statements of a recurrence's row as C++: arrays filled from arrays.

The last axis of every array lies along the lanes of a register; axes that folds over a state bind
come first, so that a matrix-vector product is a sum of rows. Inputs are copied into such arrays
once a row, or once an instance where time does not move them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attnc.backends.cpu_lanes import KEPT, Buffer, LanePrinter
from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_words import combined, identity, unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr, position, postorder, substitute

APART = 2_000_000  # numbers of indices that stand for any index of their axis


@dataclass
class RowPrinter:
    """The arrays of one kernel, and the statements that fill them.

    grid, time  indices that are fixed where a row is computed
    bound       names of the axes along which folds over states run
    buffers     arrays by the name of their value or state
    staged      arrays that stand for reads of inputs, by digest; `reads` tells equal ones
    made        every array, in order
    """

    slots: Slots
    fields: GridFields
    grid: tuple[Index, ...]
    time: Index
    bound: frozenset[str]
    names: Names
    buffers: dict[str, Buffer] = field(default_factory=dict)
    staged: dict[bytes, tuple[Buffer, tuple[Index, ...]]] = field(default_factory=dict)
    reads: dict[bytes, Buffer] = field(default_factory=dict)
    made: list[Buffer] = field(default_factory=list)

    def fork(self) -> RowPrinter:
        """A printer of another loop of the kernel: it knows what is at hand, and copies for itself
        what it reads."""
        return replace(
            self, buffers=dict(self.buffers), staged=dict(self.staged), reads=dict(self.reads)
        )

    def placed(self, scope: Scope, index: Index, row: str) -> Scope:
        at = LanePrinter(scope).placed(row, index)
        return scope.extended(positions={index: at}, rows={index: row})

    def _ordered(self, indices: Iterable[Index]) -> tuple[Index, ...]:
        """Axes in memory order: those that folds run along first."""
        return tuple(sorted(indices, key=lambda i: i.axis.name not in self.bound))

    def buffer(self, wanted: str, kind: str, indices: Iterable[Index]) -> Buffer:
        order = self._ordered(indices)
        sizes = [self.fields.length(index.axis) for index in order]
        sizes = [*sizes[:-1], f"padded({sizes[-1]})"] if sizes else []
        strides = tuple(" * ".join(sizes[place + 1 :]) or "1" for place in range(len(sizes)))
        name = self.names.fresh(wanted)
        buffer = Buffer(name, kind, order, strides, " * ".join(sizes) or "1")
        self.made.append(buffer)
        return buffer

    def printer(self, scope: Scope, lane: Index | None = None) -> LanePrinter:
        return LanePrinter(scope, [], {}, {}, buffers=self.buffers, staged=self.staged, lane=lane)

    def stage(self, scope: Scope, exprs: Iterable[Expr], constant: bool = False) -> list[str]:
        """Copies of the inputs' entries that the expressions read, over widths alone; `constant`:
        only those that time does not move."""
        time = self.time
        lines: list[str] = []
        for node in postorder(*exprs):
            if node.op != "read" or node.array.role != "input" or node.digest in self.staged:
                continue
            if constant and time in node.free:
                continue
            indices = tuple(node.free - frozenset(self.grid) - {time})
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
            buffer = self.buffer(node.array.name, node.kind, order)
            lines += self._copy(scope, node, buffer)
            return buffer
        printer = self.printer(scope)
        text = printer.read_input(node)
        name = self.names.fresh(node.array.name)
        lines += [*printer.lines, f"const auto {name} = {text};"]
        return Buffer(name, node.kind, (), (), "1", scalar=True)

    def load(self, scope: Scope, node: Expr, buffer: Buffer) -> list[str]:
        """A read's entries, over the indices of an array, into it."""
        if buffer.indices:
            return self._copy(scope, node, buffer)
        printer = self.printer(scope)
        text = printer.read_input(node)
        kept = f"{KEPT[buffer.kind]}({unwrapped(text)})"
        return [*printer.lines, f"{buffer.name}[0] = {kept};"]

    def _copy(self, scope: Scope, node: Expr, buffer: Buffer) -> list[str]:
        """A read's entries into an array; row by row where the last axis is walked straight."""
        printer = self.printer(scope)
        last = buffer.indices[-1] if buffer.indices else None
        straight = [at.op == "index" and at.attr == last for at in node.args]
        uses = sum(last in at.free for at in node.args)
        if last is None or sum(straight) != 1 or uses != 1:
            heads, inner, base = printer.loops(buffer.indices)
            below = printer.within(inner, base)
            text = below.read_input(node)
            target = below.entry_at(buffer)
            body = [*below.lines, f"{target} = {KEPT[buffer.kind]}({unwrapped(text)});"]
            return nested(heads, body)
        heads, inner, base = printer.loops(buffer.indices[:-1])
        below = printer.within(inner, {**base, last: "0"})
        place = straight.index(True)
        pointer, guard, offset = below.address(node, skip=place)
        stride = self.fields.stride(node.array, place)
        width = self.fields.length(last.axis)
        target = f"{buffer.name} + {below.offset(buffer)}"
        call = f"take_row({target}, {pointer}, {guard}, {offset}, {stride}, {width});"
        return nested(heads, [*below.lines, call])

    def scalar(self, scope: Scope, expr: Expr, lines: list[str]) -> str:
        """One number; a fold along a width runs in lanes."""
        bound = self._along(expr) if expr.op == "fold" else None
        if bound is not None:
            return self._across(self.printer(scope), expr, bound, lines)
        printer = self.printer(scope)
        text = printer.text(expr)
        lines += printer.lines
        return text

    def fill(self, scope: Scope, buffer: Buffer, expr: Expr, lines: list[str]) -> None:
        """Every entry of an array."""
        printer = self.printer(scope)
        if not buffer.indices:
            text = self.scalar(scope, expr, lines)
            lines.append(f"{buffer.name}[0] = {unwrapped(text)};")
            return
        last = buffer.indices[-1]
        if expr.op == "fold":
            bound = self._along(expr)
            if bound is not None and not self._runs_along(expr, last):
                if expr.monoid == "sum":
                    lines += self._crossed(printer, buffer, expr, bound)
                    return
                heads, inner, base = printer.loops(buffer.indices)
                body: list[str] = []
                below = printer.within(inner, base)
                text = self._across(below, expr, bound, body)
                body.append(f"{below.entry_at(buffer)} = {unwrapped(text)};")
                lines += nested(heads, body)
                return
            lines += self._summed(printer, buffer, expr)
            return
        lines += self.pointwise(printer, [(buffer, expr)])

    def pointwise(self, printer: LanePrinter, pairs: list[tuple[Buffer, Expr]]) -> list[str]:
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
        texts = [(buffer, f"spread({unwrapped(below.text(expr))})") for buffer, expr in pairs]
        if len(pairs) > 1:  # what a store changes, a later text may read
            texts = [(buffer, below.bind("next", text)) for buffer, text in texts]
        stores = [
            f"keep_lanes({buffer.name} + {below.offset(buffer)}, {text});" for buffer, text in texts
        ]
        return nested(heads, [*below.lines, *stores])

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
        add = added(below, node, kind, unit, f"{sums}[{turn}]")
        each = f"ATTNC_UNROLL for (int {turn} = 0; {turn} < count; {turn}++) {{"
        at = f"const int64_t {first} = begin + {turn} * LANES;"
        target = f"{buffer.name} + {below.offset(buffer)}"
        body = [
            f"{held} {sums}[count];",
            f"for (int {turn} = 0; {turn} < count; {turn}++) {sums}[{turn}] = {held}({unit});",
            *nested([*inner, each], [at, *below.lines, add]),
            *nested([each], [at, f"keep_lanes({target}, {sums}[{turn}]);"]),
        ]
        head = f"blocks<{width}>([&](auto count, int64_t begin) {{"
        return nested(outer, [head, *(f"    {line}" for line in body), "});"])

    def _crossed(self, printer: LanePrinter, buffer: Buffer, node: Expr, lane: Index) -> list[str]:
        """A sum along the lanes for each entry of an array: a register of sums at a time, whose
        lanes are then added crosswise."""
        last = buffer.indices[-1]
        outer, scope, base = printer.loops(buffer.indices[:-1])
        sums, turn, first, row = (self.names.fresh(x) for x in ("sums", "turn", last.name, "row"))
        width = self.fields.length(last.axis)
        inside = printer.within(scope, base)
        row_scope = inside.scope.extended(
            positions={last: inside.placed(row, last)}, rows={last: row}
        )
        body: list[str] = []
        total = self._total(inside.within(row_scope, {last: row}), node, lane, body)
        each = f"ATTNC_UNROLL for (int {turn} = 0; {turn} < LANES; {turn}++) {{"
        at = f"const int64_t {row} = minimum({first} + {turn}, {width} - 1);"
        target = f"{buffer.name} + {inside.within(scope, {last: first}).offset(buffer)}"
        block = [
            f"Real {sums}[LANES];",
            *nested([each], [at, *body, f"{sums}[{turn}] = {total};"]),
            f"keep_lanes({target}, sums_of({sums}));",
        ]
        head = f"for (int64_t {first} = 0; {first} < {width}; {first} += LANES) {{"
        return nested([*outer, head], block)

    def _across(self, printer: LanePrinter, node: Expr, lane: Index, lines: list[str]) -> str:
        """A fold to one number, its elements along the lanes."""
        return f"across({self._total(printer, node, lane, lines)}, join_{node.monoid})"

    def _total(self, printer: LanePrinter, node: Expr, lane: Index, lines: list[str]) -> str:
        """A register of which the lanes together are a fold."""
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
        lines += nested(heads, below.lines)
        return total

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
            indices = self.axes_of(below)
            if len(indices) >= best and indices:
                found = (found and len(indices) == best) or indices[-1] == index
                best = len(indices)
        return found

    def order_of(self, expr: Expr) -> tuple[Index, ...]:
        """The axes of a value's array in memory order."""
        indices = expr.free - frozenset((*self.grid, self.time))
        return self._ordered(sorted(indices, key=lambda i: (i.name, i.number)))

    def array_of(self, node: Expr) -> Buffer | None:
        """The array that a node reads, if there is one."""
        if node.digest in self.staged:
            return self.staged[node.digest][0]
        if node.op == "value":
            return self.buffers.get(str(node.attr))
        return self.buffers.get(node.array.name) if node.array.role != "input" else None

    def axes_of(self, node: Expr) -> tuple[Index, ...]:
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


def nested(heads: Iterable[str], body: Iterable[str]) -> list[str]:
    """The body within loops."""
    opened = list(heads)
    if not opened:
        return list(body)
    return [*opened, *(f"    {line}" for line in body), *("}" for _ in opened)]


def added(printer: LanePrinter, node: Expr, kind: str, unit: str, into: str) -> str:
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
