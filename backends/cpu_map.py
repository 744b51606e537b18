"""Prints a map kernel as C++: loops over rows, and inside them over widths, in lanes.

The batch comes first, then the longest index, then the others, then the width. What does not depend
on the inner ones is computed outside of them: the frequencies of a rotation once, its angles once a
row, in arrays over the width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_wanted import Wanted
from attnc.backends.cpu_words import TYPES, unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import FUNCTIONS, Expr, postorder
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Let, Store

# What is worth an array of its own when it does not vary along the inner loops.
COSTLY = frozenset((*FUNCTIONS, "pow", "div", "fold", "random")) - {"stop", "re", "im", "conj"}
UNBOUNDED = ("read", "floor", "ceil", "round", "to_int")  # integers that 32-bit lanes may not hold


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


@dataclass(frozen=True)
class Kept:
    """A number computed outside of the inner loops, or an array of them over a width."""

    name: str
    width: Index | None

    def at(self, column: str, lanes: bool) -> str:
        """Its text where the column of its width is `column`."""
        if self.width is None:
            return self.name
        return f"load({self.name} + {column})" if lanes else f"{self.name}[{column}]"


@dataclass
class MapPrinter:
    kernel: MapKernel
    slots: Slots
    identifier: str
    wanted: Wanted
    fields: GridFields = field(init=False)
    names: Names = field(default_factory=lambda: Names({"grid", "first", "last"}))
    kept: dict[bytes, Kept] = field(default_factory=dict)

    def print(self) -> MapText:
        kernel = self.kernel
        outer = tuple(index for index in kernel.over[:-1] if index.axis.name == "b")
        inner = tuple(index for index in kernel.over[:-1] if index not in outer)
        self.fields = GridFields(self.slots, outer)
        outer_count = self.fields.enter(outer)
        scope = Scope(self.fields, self.names)
        for index in outer:
            scope = self._placed(scope, index, self.fields.row(index))
        body, row_count = self._rows(scope, outer, inner)
        return MapText(
            title=f"{kernel.name}: {', '.join(store.array.name for store in kernel.stores)}",
            name=self.identifier,
            fields=self.fields.declared(),
            outer_count=outer_count,
            row_count=row_count,
            enter=self.fields.entered(),
            body=tuple(body),
        )

    def _placed(self, scope: Scope, index: Index, row: str) -> Scope:
        start = Printer(scope).start(index.axis)
        at = row if start == "int64_t(0)" else f"({row} + {start})"
        return scope.extended(positions={index: at}, rows={index: row})

    def _rows(
        self, scope: Scope, outer: tuple[Index, ...], inner: tuple[Index, ...]
    ) -> tuple[list[str], str]:
        known, lets = frozenset(outer), list(self.kernel.values)
        lines, scope, lets = self._level(scope, known, lets)
        head, count = "{", "1"
        if self.kernel.over:
            last = self.kernel.over[-1]
            row = self.names.fresh(last.name)
            count = self.slots.width(last.axis) or self.slots.integer(f"len_{last.axis.name}")
            scope = self._placed(scope, last, row)
            head, known = f"for (int64_t {row} = first; {row} < last; {row}++) {{", known | {last}
        body, scope, lets = self._level(scope, known, lets)
        heads = []
        for index in inner:
            at = self.names.fresh(index.name)
            length = self.fields.length(index.axis)
            heads.append(f"for (int64_t {at} = 0; {at} < {length}; {at}++) {{")
            scope = self._placed(scope, index, at)
        innermost, scope, _ = self._level(scope, known | frozenset(inner), lets, last=True)
        for store in self.kernel.stores:
            stored = self._store(store, scope)
            if store.array.role == "output":  # an emit that is not asked for has no memory
                present = f"if ({self.fields.pointer(store.array)}) {{"
                stored = [present, *_indented(stored), "}"]
            innermost += self.wanted.guarded(store.array, stored)
        body += [*heads, *_indented(innermost), *("}" for _ in heads)]
        return [*lines, head, *_indented(body), "}"], count

    def _level(
        self, scope: Scope, known: frozenset[Index], lets: list[Let], last: bool = False
    ) -> tuple[list[str], Scope, list[Let]]:
        """What can be computed once the indices `known` are: values, and what is costly of the
        stores (in the last level only numbers). Gives back the values that are left."""
        lines: list[str] = []
        left = []
        for let in lets:
            if not (let.expr.free <= known and _values(let.expr) <= scope.values.keys()):
                left.append(let)
                continue
            printer = self._printer(scope, lines)
            name = printer.bind(let.name, printer.text(let.expr))
            scope = scope.extended(values={let.name: name})
        for store in self.kernel.stores:
            width = (
                frozenset((store.width,)) if store.width is not None and not last else frozenset()
            )
            for node in self._maximal(store.expr, known | width, frozenset(scope.values)):
                self.kept[node.digest] = self._keep(node, store.width, scope, lines)
        return lines, scope, left

    def _maximal(self, root: Expr, known: frozenset[Index], values: frozenset[str]) -> list[Expr]:
        """The largest subtrees that vary along nothing but `known`, are costly beyond what is kept,
        and use no value but `values`."""
        costly: dict[bytes, bool] = {}
        fits: dict[bytes, bool] = {}
        for node in postorder(root):
            below = [arg.digest for arg in node.args]
            dear = node.op in COSTLY or any(costly[digest] for digest in below)
            costly[node.digest] = dear and node.digest not in self.kept
            usable = node.op != "value" or str(node.attr) in values
            fits[node.digest] = usable and all(fits[digest] for digest in below)
        found, stack, seen = [], [root], set()
        while stack:
            node = stack.pop()
            if node.digest in seen or not costly[node.digest]:
                continue
            seen.add(node.digest)
            if fits[node.digest] and node.free <= known:
                found.append(node)
            elif not node.bound:
                stack.extend(node.args)
        return found

    def _keep(self, node: Expr, width: Index | None, scope: Scope, lines: list[str]) -> Kept:
        if width is None or width not in node.free:
            printer, name = self._printer(scope, lines), self.names.fresh("kept")
            text = unwrapped(printer.text(node))
            lines.append(f"const {TYPES[node.kind]} {name} = {text};")
            return Kept(name, None)
        name, column = self.names.fresh("kept"), self.names.fresh(width.name)
        lanes = node.kind == "real" and _fits_lanes(node, width)
        heads, inside = self._columns(scope, width, column, lanes)
        printer = self._printer(inside, [], column)
        text = unwrapped(printer.text(node))
        stored = (
            f"store({name} + {column}, spread({text}));" if lanes else f"{name}[{column}] = {text};"
        )
        length = self.fields.length(width.axis)
        lines.append(f"{TYPES[node.kind]} {name}[{length}{' + LANES' if lanes else ''}];")
        lines += [*heads, *_indented([*printer.lines, stored]), "}"]
        return Kept(name, width)

    def _columns(
        self, scope: Scope, width: Index, column: str, lanes: bool
    ) -> tuple[list[str], Scope]:
        """The head of a loop over a width, and its scope. Lanes beyond the width repeat its end."""
        length = self.fields.length(width.axis)
        step = f"{column} += LANES" if lanes else f"{column}++"
        heads = [f"for (int64_t {column} = 0; {column} < {length}; {step}) {{"]
        if not lanes:
            return heads, self._placed(scope, width, column)
        at = self.names.fresh(f"{width.name} at")
        heads.append(f"    const Integer {at} = minimum(iota({column}), Integer({length} - 1));")
        return heads, replace(self._placed(scope, width, at), lanes=True)

    def _printer(self, scope: Scope, lines: list[str], column: str = "") -> Printer:
        """A printer that knows what is kept."""
        kept = self.kept.items()
        done = {
            digest: one.at(column, scope.lanes) for digest, one in kept if column or not one.width
        }
        return Printer(scope, lines, done)

    def _store(self, store: Store, scope: Scope) -> list[str]:
        kind = self.slots.types[store.array.name]
        real = kind in ("Element", "Acc")
        lanes, column, heads = False, "", list[str]()
        if store.width is not None:
            column = self.names.fresh(store.width.name)
            lanes = real and _fits_lanes(store.expr, store.width)
            lanes = lanes and store.array.indices[-1] == store.width
            heads, scope = self._columns(scope, store.width, column, lanes)
        printer = self._printer(scope, [], column)
        text = printer.text(store.expr)
        text = unwrapped(printer._as("real", text, store.expr) if real else text)
        rows = {**scope.rows, **({store.width: column} if store.width is not None else {})}
        offset = " + ".join(
            f"{rows[index]} * {self.fields.stride(store.array, place)}"
            for place, index in enumerate(store.array.indices)
        )
        at = f"const_cast<{kind}*>({self.fields.pointer(store.array)})"
        if lanes:
            assert store.width is not None
            step = self.fields.stride(store.array, len(store.array.indices) - 1)
            count = f"{self.fields.length(store.width.axis)} - {column}"
            line = f"store_columns({at} + {offset}, {step}, spread({text}), {count});"
        else:
            line = f"{at}[{offset or '0'}] = {f'narrow<{kind}>({text})' if real else text};"
        return [*heads, *_indented([*printer.lines, line], bool(heads)), *("}" for _ in heads[:1])]


def _indented(lines: list[str], deeper: bool = True) -> list[str]:
    return [f"    {line}" for line in lines] if deeper else lines


def _values(expr: Expr) -> set[str]:
    """The names of the values that an expression uses."""
    return {str(node.attr) for node in postorder(expr) if node.op == "value"}


def _fits_lanes(expr: Expr, width: Index) -> bool:
    """Whether every integer that varies along the width is a formula of positions."""
    return not any(
        node.kind == "int" and node.op in UNBOUNDED and width in node.free
        for node in postorder(expr)
    )
