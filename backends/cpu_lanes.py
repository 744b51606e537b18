"""Prints expressions of a recurrence's row as C++: lanes along the last axis of an array.

An array of a row is kept row-major in padded rows (templates/cpu/scan.hpp), so that a read along
its last axis is one load. What is constant along the lanes is a scalar; what runs across them is
gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_words import combined, identity, unwrapped

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import TRUE, Expr

KEPT = {"real": "Acc", "int": "Int", "bool": "bool"}


@dataclass(frozen=True)
class Buffer:
    """An array of a row: what it is called, the indices of its axes in memory order, and how far
    apart these are (C++ texts)."""

    name: str
    kind: str
    indices: tuple[Index, ...]
    strides: tuple[str, ...]
    size: str
    scalar: bool = False


@dataclass
class LanePrinter(Printer):
    """A printer with one index along the lanes (None: all scalars).

    buffers   arrays by the name of their value, or of their state
    staged    arrays that stand for reads of inputs, by the digest of the read
    base      the first row of each index that a loop is at
    """

    buffers: Mapping[str, Buffer] = field(default_factory=dict)
    staged: Mapping[bytes, tuple[Buffer, tuple[Index, ...]]] = field(default_factory=dict)
    base: dict[Index, str] = field(default_factory=dict)
    lane: Index | None = None

    def within(self, scope: Scope, base: Mapping[Index, str]) -> LanePrinter:
        """A printer of an inner loop, that knows what is printed already."""
        return LanePrinter(
            scope,
            [],
            dict(self.done),
            dict(self.guards),
            self.buffers,
            self.staged,
            {**self.base, **base},
            self.lane,
        )

    # --- Arrays -----------------------------------------------------------------------------------

    def entry(self, buffer: Buffer, at: Iterable[Index]) -> str:
        """The entry of an array where its axes stand at these indices."""
        if buffer.scalar:
            return buffer.name
        parts, across = [], ""
        places = list(at)
        for place, (index, stride) in enumerate(zip(places, buffer.strides, strict=True)):
            if index == self.lane and place < len(places) - 1:
                across = f"times({self.scope.rows[index]}, {stride})"
            else:
                parts.append(
                    self.base[index] if stride == "1" else f"{self.base[index]} * {stride}"
                )
        offset = " + ".join(parts) or "0"
        if across:
            assert self.lane is not None
            length = self.length(self.lane.axis)
            inside = f"({self.scope.rows[self.lane]} < Integer({length}))"
            return f"fetch({buffer.name}, {inside}, {across} + int64_t({offset}))"
        if places and places[-1] == self.lane:
            return f"load({buffer.name} + {offset})"
        one = f"{buffer.name}[{offset}]"
        return f"int64_t({one})" if buffer.kind == "int" else one

    def offset(self, buffer: Buffer) -> str:
        """Where the entry at the buffer's own indices stands."""
        parts = (
            self.base[index] if stride == "1" else f"{self.base[index]} * {stride}"
            for index, stride in zip(buffer.indices, buffer.strides, strict=True)
        )
        return " + ".join(parts) or "0"

    def entry_at(self, buffer: Buffer) -> str:
        """The entry at the buffer's own indices, to be assigned to."""
        return f"{buffer.name}[{self.offset(buffer)}]"

    def address(self, node: Expr, skip: int) -> tuple[str, str, str]:
        """Pointer, guard and offset of an input's row; `skip` is the dimension along it."""
        array = node.array
        guards: list[str] = []
        offsets: list[str] = []
        for place, at in enumerate(node.args):
            if place == skip:
                continue
            axis, index = array.axes[place], at.attr
            if isinstance(index, Index) and index in self.scope.rows and index.axis is axis:
                row = self.scope.rows[index]
            else:
                row = self._checked_row(self.text(at), at, axis, guards)
            offsets.append(f"times({row}, {self.scope.fields.stride(array, place)})")
        guard = self.scope.fields.given(array)
        for check in dict.fromkeys(guards):
            guard = check if guard == "true" else f"both({guard}, {check})"
        return self.scope.fields.pointer(array), guard, " + ".join(offsets) or "0"

    def read_input(self, node: Expr) -> str:
        """An input's entry, guarded, whether or not it is copied into an array."""
        for at in node.args:
            self.text(at)
        return super()._read(node)

    def _value(self, name: str) -> str:
        buffer = self.buffers.get(name)
        return super()._value(name) if buffer is None else self.entry(buffer, buffer.indices)

    def _read(self, node: Expr) -> str:
        if node.digest in self.staged:
            self.guards[node.digest] = "true"
            return self.entry(*self.staged[node.digest])
        buffer = self.buffers.get(node.array.name) if node.array.role != "input" else None
        if buffer is None:
            return super()._read(node)
        places = {i: at for i, at in zip(node.array.indices, node.args, strict=True)}
        straight = [at.attr for at in places.values() if at.op == "index"]
        if len(set(straight)) == len(places) and all(i in self.base for i in straight):
            order = [places[index].attr for index in buffer.indices]
            return self.entry(buffer, order)  # type: ignore[arg-type]
        return self._moved(node, buffer, places)

    def _moved(self, node: Expr, buffer: Buffer, places: Mapping[Index, Expr]) -> str:
        """A read of an array at computed places; outside it is 0."""
        guards: list[str] = []
        offsets = []
        for index, stride in zip(buffer.indices, buffer.strides, strict=True):
            at = places[index]
            row = self._checked_row(self.done[at.digest], at, index.axis, guards)
            offsets.append(f"times({row}, {stride})")
        guard = guards[0]
        for check in guards[1:]:
            guard = f"both({guard}, {check})"
        self.guards[node.digest] = guard
        return f"fetch({buffer.name}, {guard}, {' + '.join(offsets)})"

    # --- Arithmetic -------------------------------------------------------------------------------

    def _pointwise(self, node: Expr, args: list[str]) -> str:
        if node.op in ("add", "sub") and node.kind == "real":
            text = self._fused(node)
            if text:
                return text
        return super()._pointwise(node, args)

    def _fused(self, node: Expr) -> str:
        """x * y + z in one operation; empty where neither operand is a product."""
        for place in (1, 0):
            product, other = node.args[place], node.args[1 - place]
            text = self.done[product.digest]
            if product.op != "mul" or product.kind != "real" or not text.startswith("("):
                continue
            if any(arg.kind != "real" for arg in product.args) or other.kind != "real":
                continue
            x, y = (self._spread(self.done[arg.digest]) for arg in product.args)
            z = self._spread(self.done[other.digest])
            if node.op == "sub":
                x, z = (f"-{x}", z) if place == 1 else (x, f"-{z}")
            return f"fused({x}, {y}, {z})"
        return ""

    def _spread(self, text: str) -> str:
        return f"spread({unwrapped(text)})" if self.lane is not None else text

    # --- Folds ------------------------------------------------------------------------------------

    def _fold(self, node: Expr) -> str:
        """A fold within a statement: one number, or one register, in a loop."""
        kind = "int" if node.kind == "bool" else node.kind
        if kind == "complex":
            raise UnsupportedError("complex numbers", "cpu", ("eager", "numpy"))
        name, unit = self.scope.names.fresh(node.monoid), identity(node.monoid, kind)
        self.lines.append(f"auto {name} = {self._spread(unit)};")
        heads, scope, base = self.loops(node.bound)
        inner = self.within(scope, base)
        term = inner.term(node, kind, unit)
        inner.lines.append(f"{name} = {combined(node.monoid, name, term)};")
        self.lines += [*heads, *(f"    {line}" for line in inner.lines), *("}" for _ in heads)]
        return name

    def loops(self, indices: Iterable[Index]) -> tuple[list[str], Scope, dict[Index, str]]:
        """Loops over indices one by one."""
        heads, scope, base = [], self.scope, {}
        for index in indices:
            row = self.scope.names.fresh(index.name)
            heads.append(f"for (int64_t {row} = 0; {row} < {self.length(index.axis)}; {row}++) {{")
            base[index] = row
            scope = scope.extended(positions={index: self.placed(row, index)}, rows={index: row})
        return heads, scope, base

    def placed(self, row: str, index: Index) -> str:
        """The position of a row."""
        start = self.start(index.axis)
        return row if start == "int64_t(0)" else f"({row} + {start})"

    def term(self, node: Expr, kind: str, unit: str) -> str:
        """What an element adds to a fold: its body where the condition holds, else nothing."""
        condition, body = node.args
        term = self._as(kind, self.text(body), body)
        if condition == TRUE:
            return term
        return f"choose({unwrapped(self.text(condition))}, {term}, {unit})"
