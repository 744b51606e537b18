"""Prints one pass over two widths: statements of a row that use the same states, joined.

A pass runs down the outer width, a few registers of lanes at a time:

    map      an array over both widths from arrays at the same place: a state after the row
    down     a fold along the outer width, kept in registers: q @ S; a sum in parts of PART rows, so
             that its rounding grows with their number and length, not with the width
    across   a sum along the lanes, a register for each row, summed up after the pass: S @ x

What lies along one width is loaded once for a row, or once for the registers of a block; what is
made at a place is read there from its register.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from attnc.backends.cpu_lanes import Buffer, LanePrinter
from attnc.backends.cpu_rows import RowPrinter, added, nested
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_words import identity, unwrapped

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder

MOST = 4  # registers of a block: so that sums and what they are made of stay in registers
PART = 16  # rows whose terms are added up before they join a sum


@dataclass(frozen=True)
class Plane:
    """The two widths that a statement runs over, and what it does along them."""

    outer: Index
    lane: Index
    mode: Literal["map", "down", "across"]

    @property
    def axes(self) -> tuple[Axis, Axis]:
        return (self.outer.axis, self.lane.axis)


@dataclass(frozen=True)
class Planned:
    """A statement of a pass: names, and expressions that are all of old values."""

    plane: Plane
    names: tuple[str, ...]
    exprs: tuple[Expr, ...]


@dataclass
class PassPrinter:
    """Prints a pass (see the module).

    needed   names that are read after the pass
    held     what stands in registers: by an array's C++ name and its axes
    folds    the arrays of folds, by what is added up
    stores   registers that go to memory at the end of a place, by address

    before .. after are lines: once for a register of a block, once for a row, for a register of a
    row, and after each; `part` and `part_end` once for a register of a part of the rows.
    """

    rows: RowPrinter
    scope: Scope
    needed: frozenset[str]
    held: dict[tuple[str, str], str] = field(default_factory=dict)
    folds: dict[str, Buffer] = field(default_factory=dict)
    stores: dict[str, str] = field(default_factory=dict)
    declared: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    part: list[str] = field(default_factory=list)
    row: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    row_end: list[str] = field(default_factory=list)
    part_end: list[str] = field(default_factory=list)
    end: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def lines(self, steps: Sequence[Planned]) -> list[str]:
        outer, lane = steps[0].plane.outer, steps[0].plane.lane
        fresh = self.rows.names.fresh
        self.height = self.rows.fields.length(outer.axis)
        self.width = self.rows.fields.length(lane.axis)
        self.outer, self.lane = fresh(outer.name), fresh(lane.name)
        self.lanes, self.turn = fresh(f"{lane.name} lanes"), fresh("turn")
        for step in steps:
            if step.plane.mode == "map":
                self._map(step)
            else:
                self._fold(step)
        head = f"ATTNC_UNROLL for (int {self.turn} = 0; {self.turn} < count; {self.turn}++) {{"
        place = f"[[maybe_unused]] const int64_t {self.lane} = begin + {self.turn} * LANES;"
        lanes = f"[[maybe_unused]] const Integer {self.lanes} = iota({self.lane});"
        stores = [f"keep_lanes({at}, {register});" for at, register in self.stores.items()]
        each = nested([head], [place, lanes, *self.body, *stores])
        whole = [
            *self.declared,
            *nested([head], [place, *self.before]),
            *self._down_rows(head, place, [*self.row, *each, *self.row_end]),
            *nested([head], [place, *self.end]),
        ]
        blocks = f"blocks<{self.width}, {MOST}>([&](auto count, int64_t begin) {{"
        return [blocks, *(f"    {line}" for line in whole), "});", *self.after]

    def _down_rows(self, head: str, place: str, row: Sequence[str]) -> list[str]:
        """The loop over rows; where sums have parts, over those of a part within one over parts."""
        outer, height = self.outer, self.height
        if not self.part:
            return nested([f"for (int64_t {outer} = 0; {outer} < {height}; {outer}++) {{"], row)
        part, stop = self.rows.names.fresh("part"), self.rows.names.fresh("stop")
        return nested(
            [f"for (int64_t {part} = 0; {part} < {height}; {part} += {PART}) {{"],
            [
                f"const int64_t {stop} = minimum({part} + {PART}, {height});",
                *nested([head], self.part),
                *nested([f"for (int64_t {outer} = {part}; {outer} < {stop}; {outer}++) {{"], row),
                *nested([head], [place, *self.part_end]),
            ],
        )

    # --- Statements -------------------------------------------------------------------------------

    def _map(self, step: Planned) -> None:
        plane = step.plane
        made = []
        for expr in step.exprs:
            printer = self._printer(plane, (expr,))
            text = f"spread({unwrapped(printer.text(expr))})"
            register = self.rows.names.fresh("made")
            self.body += [*printer.lines, f"const Real {register} = {text};"]
            made.append(register)
        for name, register in zip(step.names, made, strict=True):
            buffer = self.rows.buffers.get(name)
            if buffer is None:
                buffer = self.rows.buffer(name, "real", (plane.outer, plane.lane))
                self.rows.buffers[name] = buffer
                if name not in self.needed:
                    self.rows.made.pop()
            self.held[(buffer.name, "place")] = register
            if name in self.needed:
                self.stores[self._address(buffer)] = register

    def _fold(self, step: Planned) -> None:
        plane, (name,), (node,) = step.plane, step.names, step.exprs
        printer = self._printer(plane, node.args)
        unit = identity(node.monoid, "real")
        text = added(printer, node, "real", unit, "{into}")
        along = plane.lane if plane.mode == "down" else plane.outer
        key = f"{plane.mode} {node.monoid} {text}"
        if not printer.lines and key in self.folds:  # the same sum once more
            self.rows.buffers[name] = replace(self.folds[key], indices=(along,))
            return
        self.body += printer.lines
        buffer = self.rows.buffer(name, "real", (along,))
        if plane.mode == "down":
            self._down(buffer, text, unit, node.monoid == "sum")
        else:
            self._across(buffer, text, unit)
        self.rows.buffers[name] = buffer
        if not printer.lines:
            self.folds[key] = buffer

    def _down(self, buffer: Buffer, text: str, unit: str, in_parts: bool) -> None:
        sums = self.rows.names.fresh("sums")
        self.declared.append(f"Real {sums}[count];")
        at, own = f"{buffer.name} + {self.lane}", f"{sums}[{self.turn}]"
        self.body.append(text.replace("{into}", own))
        if in_parts:
            self.before.append(f"keep_lanes({at}, Real({unit}));")
            self.part.append(f"{own} = Real({unit});")
            self.part_end.append(f"keep_lanes({at}, load({at}) + {own});")
        else:
            self.before.append(f"{own} = Real({unit});")
            self.end.append(f"keep_lanes({at}, {own});")

    def _across(self, buffer: Buffer, text: str, unit: str) -> None:
        fresh = self.rows.names.fresh
        total, old, first, turn, part = (
            fresh(x) for x in ("total", "old", self.outer, "turn", "part")
        )
        parts = Buffer(fresh("parts"), "real", (), (), f"{self.height} * LANES")
        self.rows.made.append(parts)
        self.row.append(f"Real {total}({unit});")
        inside = f"{self.lanes} < Integer({self.width})"
        self.body += [
            f"[[maybe_unused]] const Real {old} = {total};",
            text.replace("{into}", total),
            f"if constexpr ({self.width} % LANES != 0) {total} = select({inside}, {total}, {old});",
        ]
        at = f"{parts.name} + {self.outer} * LANES"
        self.row_end += [f"store({at}, begin ? load({at}) + {total} : {total});"]
        row = f"minimum({first} + {turn}, {self.height} - 1)"
        self.after += nested(
            [f"for (int64_t {first} = 0; {first} < {self.height}; {first} += LANES) {{"],
            [
                f"Real {part}[LANES];",
                f"ATTNC_UNROLL for (int {turn} = 0; {turn} < LANES; {turn}++)",
                f"    {part}[{turn}] = load({parts.name} + {row} * LANES);",
                f"keep_lanes({buffer.name} + {first}, sums_of({part}));",
            ],
        )

    # --- Operands ---------------------------------------------------------------------------------

    def _printer(self, plane: Plane, exprs: Iterable[Expr]) -> LanePrinter:
        """A printer at one place of the pass, for which what the expressions read is at hand."""
        first = LanePrinter(self.scope)
        scope = self.scope.extended(
            positions={
                plane.outer: first.placed(self.outer, plane.outer),
                plane.lane: first.placed(self.lanes, plane.lane),
            },
            rows={plane.outer: self.outer, plane.lane: self.lanes},
        ).renamed(self.scope.names, lanes=True)
        buffers, staged = dict(self.rows.buffers), dict(self.rows.staged)
        for node, buffer, indices in self._operands(plane, exprs):
            register = self._register(plane, buffer, indices)
            stand = Buffer(register, "real", (), (), "1", scalar=True)
            if node.digest in staged:
                staged[node.digest] = (stand, ())
            else:
                buffers[str(node.attr) if node.op == "value" else node.array.name] = stand
        base = {plane.outer: self.outer, plane.lane: self.lane}
        return LanePrinter(
            scope, [], {}, {}, buffers=buffers, staged=staged, base=base, lane=plane.lane
        )

    def _operands(
        self, plane: Plane, exprs: Iterable[Expr]
    ) -> list[tuple[Expr, Buffer, tuple[Index, ...]]]:
        """Reads of real arrays along the widths, but for what is read along both of them by one
        name (a vector along itself)."""
        found: list[tuple[Expr, Buffer, tuple[Index, ...]]] = []
        ways: dict[str, set[tuple[Index, ...]]] = {}
        for node in postorder(*exprs):
            if node.op not in ("read", "value"):
                continue
            buffer = self.rows.array_of(node)
            if buffer is None or buffer.scalar or buffer.kind != "real":
                continue
            indices = self.rows.axes_of(node)
            straight = indices in ((plane.outer,), (plane.lane,), (plane.outer, plane.lane))
            ways.setdefault(buffer.name, set()).add(indices)
            if straight:
                found.append((node, buffer, indices))
        return [one for one in found if len(ways[one[1].name]) == 1]

    def _register(self, plane: Plane, buffer: Buffer, indices: tuple[Index, ...]) -> str:
        """The register that stands for an array at a place of the pass."""
        way = "place" if len(indices) == 2 else "row" if indices == (plane.outer,) else "lanes"
        key = (buffer.name, way)
        if key in self.held:
            return self.held[key]
        register = self.rows.names.fresh(f"{buffer.name}{way}")
        if way == "row":
            self.row.append(f"const Real {register}({buffer.name}[{self.outer}]);")
            self.held[key] = register
        elif way == "lanes":
            self.declared.append(f"Real {register}[count];")
            self.before.append(f"{register}[{self.turn}] = load({buffer.name} + {self.lane});")
            self.held[key] = f"{register}[{self.turn}]"
        else:
            self.body.append(f"const Real {register} = load({self._address(buffer)});")
            self.held[key] = register
        return self.held[key]

    def _address(self, buffer: Buffer) -> str:
        """Where a place of the pass stands in an array over both widths."""
        return f"{buffer.name} + {self.outer} * {buffer.strides[0]} + {self.lane}"
