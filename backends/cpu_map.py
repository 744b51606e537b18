"""Prints a map kernel as C++: loops over rows, and inside them over widths.

The batch comes first, then the longest index, then the others: what does not depend on the others
(the angles of a rotation, say) is computed once for each row of the longest, in an inner array over
the width where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_printer import TYPES, Printer, Scope, unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import FUNCTIONS, Expr, postorder
from attnc.schedule import MapKernel, Store

# What is worth an array of its own when it does not vary along the inner loops.
COSTLY = frozenset((*FUNCTIONS, "pow", "div", "fold", "random")) - {"stop", "re", "im", "conj"}


@dataclass(frozen=True)
class MapText:
    """What the template prints of a map kernel."""

    title: str
    name: str
    fields: tuple[str, ...]
    outer_count: str
    row_count: str
    enter: tuple[str, ...]
    body: tuple[str, ...]


@dataclass
class MapPrinter:
    kernel: MapKernel
    slots: Slots
    identifier: str
    fields: GridFields = field(init=False)
    names: Names = field(default_factory=lambda: Names({"grid", "first", "last"}))

    def print(self) -> MapText:
        kernel = self.kernel
        outer = tuple(index for index in kernel.over[:-1] if index.axis.name == "b")
        inner = tuple(index for index in kernel.over[:-1] if index not in outer)
        self.fields = GridFields(self.slots, outer)
        outer_count = self._enter(outer)
        scope = Scope(self.fields, self.names)
        for index in outer:
            scope = self._placed(scope, index, self.fields.row(index))
        body, row_count = self._rows(scope, outer, inner)
        return MapText(
            title=f"{kernel.name}: {', '.join(store.array.name for store in kernel.stores)}",
            name=self.identifier,
            fields=tuple(self.fields.declarations),
            outer_count=outer_count,
            row_count=row_count,
            enter=tuple(self.fields.statements),
            body=tuple(body),
        )

    def _enter(self, outer: tuple[Index, ...]) -> str:
        counts = []
        for index in reversed(outer):
            length = self.slots.integer(f"len_{index.axis.name}")
            key = f"row {index.number} {index.name}"
            self.fields.add(key, "int64_t", f"{index.name} row", f"instance % {length}")
            self.fields.statements.append(f"instance /= {length};")
            counts.append(length)
        return " * ".join(counts) or "1"

    def _placed(self, scope: Scope, index: Index, row: str) -> Scope:
        start = Printer(scope).start(index.axis)
        at = row if start == "int64_t(0)" else f"({row} + {start})"
        return scope.extended(positions={index: at}, rows={index: row})

    def _rows(
        self, scope: Scope, outer: tuple[Index, ...], inner: tuple[Index, ...]
    ) -> tuple[list[str], str]:
        if self.kernel.over:
            last = self.kernel.over[-1]
            row = self.names.fresh(last.name)
            macro = self.slots.width(last.axis)
            count = macro or self.slots.integer(f"len_{last.axis.name}")
            scope = self._placed(scope, last, row)
            head, known = f"for (int64_t {row} = first; {row} < last; {row}++) {{", {*outer, last}
        else:
            count, head, known = "1", "{", set()
        lines, scope, hoisted = self._hoist(scope, frozenset(known))
        heads = []
        for index in inner:
            at = self.names.fresh(index.name)
            heads.append(
                f"for (int64_t {at} = 0; {at} < {self.fields.length(index.axis)}; {at}++) {{"
            )
            scope = self._placed(scope, index, at)
        innermost = self._innermost(scope, hoisted)
        body = [*lines, *heads, *(f"    {line}" for line in innermost), *("}" for _ in heads)]
        return [head, *(f"    {line}" for line in body), "}"], count

    def _hoist(
        self, scope: Scope, known: frozenset[Index]
    ) -> tuple[list[str], Scope, dict[bytes, tuple[str, Index | None]]]:
        """Arrays of what is costly and does not vary along the inner indices."""
        lines: list[str] = []
        hoisted: dict[bytes, tuple[str, Index | None]] = {}
        if len(known) == len(self.kernel.over):
            return lines, scope, hoisted
        for store in self.kernel.stores:
            width = frozenset((store.width,)) if store.width is not None else frozenset()
            for node in _maximal(store.expr, known | width):
                if node.digest in hoisted:
                    continue
                array = self.names.fresh("kept")
                over = store.width if store.width in node.free else None
                if over is None or store.width is None:
                    printer = Printer(scope, lines)
                    lines.append(
                        f"const {TYPES[node.kind]} {array} = {unwrapped(printer.text(node))};"
                    )
                    hoisted[node.digest] = (array, None)
                    continue
                column = self.names.fresh(store.width.name)
                printer = Printer(self._placed(scope, store.width, column))
                text = printer.text(node)
                length = self.fields.length(store.width.axis)
                lines += [
                    f"{TYPES[node.kind]} {array}[{length}];",
                    f"for (int64_t {column} = 0; {column} < {length}; {column}++) {{",
                    *(f"    {line}" for line in printer.lines),
                    f"    {array}[{column}] = {unwrapped(text)};",
                    "}",
                ]
                hoisted[node.digest] = (array, store.width)
        return lines, scope, hoisted

    def _innermost(self, scope: Scope, hoisted: dict[bytes, tuple[str, Index | None]]) -> list[str]:
        printer = Printer(scope)
        printer.done |= {digest: text for digest, (text, over) in hoisted.items() if over is None}
        for let in self.kernel.values:
            name = printer.bind(let.name, printer.text(let.expr))
            printer.scope = printer.scope.extended(values={let.name: name})
        lines = printer.lines
        for store in self.kernel.stores:
            lines += self._store(store, printer, hoisted)
        return lines

    def _store(
        self, store: Store, before: Printer, hoisted: dict[bytes, tuple[str, Index | None]]
    ) -> list[str]:
        scope, done = before.scope, dict(before.done)
        heads: list[str] = []
        if store.width is not None:
            column = self.names.fresh(store.width.name)
            length = self.fields.length(store.width.axis)
            heads.append(f"for (int64_t {column} = 0; {column} < {length}; {column}++) {{")
            scope = self._placed(scope, store.width, column)
            done |= {
                d: f"{text}[{column}]" for d, (text, over) in hoisted.items() if over == store.width
            }
        printer = Printer(scope, [], done)
        kind = self.slots.types[store.array.name]
        text = printer._as("real", printer.text(store.expr), store.expr)
        if kind not in ("Element", "Acc"):
            text = printer.text(store.expr)
        offset = " + ".join(
            f"{scope.rows[index]} * {self.fields.stride(store.array, place)}"
            for place, index in enumerate(store.array.indices)
        )
        stored = (
            f"narrow<{kind}>({unwrapped(text)})" if kind in ("Element", "Acc") else unwrapped(text)
        )
        at = f"const_cast<{kind}*>({self.fields.pointer(store.array)})"
        lines = [*printer.lines, f"{at}[{offset or '0'}] = {stored};"]
        return [*heads, *(f"    {line}" for line in lines), *("}" for _ in heads)]


def _maximal(root: Expr, known: frozenset[Index]) -> list[Expr]:
    """The largest subtrees that vary along nothing but `known`, are costly, and use no value."""
    found, stack, seen = [], [root], set()
    while stack:
        node = stack.pop()
        if node.digest in seen:
            continue
        seen.add(node.digest)
        inside = list(postorder(node))
        fits = node.free <= known and not any(n.op == "value" for n in inside)
        if fits and any(n.op in COSTLY for n in inside):
            found.append(node)
        elif not node.bound:
            stack.extend(node.args)
    return found
