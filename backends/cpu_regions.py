"""Prints the regions of a walked loop: which tiles are visited, as a predicate over bounds of
positions, and the run-time summaries of data that it asks.

Bounds saturate (templates/cpu/integers.hpp), so that no formula wraps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.backends.cpu_names import Names
from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_texts import SummaryText, TableText
from attnc.backends.cpu_words import unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import BOXES, Expr, postorder
from attnc.schedule.regions import Region, Summary
from attnc.schedule.streams import StreamKernel

HELD_ENDS = frozenset(("held_low", "held_high"))
WALKED_ENDS = frozenset(("walked_low", "walked_high"))


class RegionPrinter(Printer):
    """Prints integers as saturating bounds."""

    def _node(self, node: Expr) -> str:
        if node.op in BOXES:
            return self._box(node)
        text = super()._node(node)
        leaf = node.op in ("param", "length", "start", "value", "index", "read")
        leaf = leaf and not text.endswith(("_low", "_high"))
        return f"Bound({unwrapped(text)})" if leaf and node.kind == "int" else text

    def _box(self, node: Expr) -> str:
        """A question about the entries of a table in a box of positions."""
        spans = (self.span(node, place) for place in free_places(node))
        return f"{node.op}_of({', '.join((self.table(node), *spans))})"

    def table(self, box: Expr) -> str:
        """Where the entries of a box begin: what a grid instance fixes of it is found once, where
        it begins."""
        array, fields, free = box.array, self.scope.fields, free_places(box)
        at, fixed = fields.pointer(array), list[str]()
        for place, axis in enumerate(array.axes):
            if place in free:
                continue
            row = unwrapped(Printer(replace(self.scope, values={})).text(box.args[2 * place]))
            sizes = self.start(axis), self.length(axis), fields.stride(array, place)
            fixed.append(f"row_of({', '.join((row, *sizes))})")
        if fixed:
            at = f"part_of({', '.join((at, *fixed))})"
            at = fields.add(at, "const bool*", f"{array.name} here", at)
        return at

    def span(self, box: Expr, place: int) -> str:
        """The rows of one axis of a table that are in a box."""
        axis = box.array.axes[place]
        ends = (unwrapped(self.text(one)) for one in box.args[2 * place :][:2])
        sizes = self.start(axis), self.length(axis), self.scope.fields.stride(box.array, place)
        return f"span_of({', '.join((*ends, *sizes))})"


@dataclass
class Regions:
    """The regions of one kernel, and the summaries that they share. `grid` is the scope of values
    that are the same for all pairs of a grid instance, and of a turn around it (`around`)."""

    kernel: StreamKernel
    grid: Scope
    around: tuple[Index, ...] = ()
    summaries: list[SummaryText] = field(default_factory=list)

    def print(self, region: Region, expr: Expr) -> tuple[str, ...]:
        values = {name: name for name in (*HELD_ENDS, *WALKED_ENDS)}
        names = Names(set(values) | {"grid"})
        scope = self.grid.renamed(names).extended(values=values)
        used = {str(node.attr) for node in postorder(expr) if node.op == "value"}
        lines = []
        for summary in region.summaries:
            if not used & {f"{summary.name}_low", f"{summary.name}_high"}:
                continue
            place = self._summary(summary)
            side = "held" if summary.index == self.kernel.held else "walked"
            start = Printer(self.grid).start(summary.index.axis)
            found = names.fresh(f"s {summary.name}")
            lines.append(
                f"const auto {found} = grid.shared->at{place}.over(Summary{place}::slot(grid), "
                f"{side}_low.at - {start}, {side}_high.at - {start});"
            )
            scope = scope.extended(
                values={
                    f"{summary.name}_low": f"{found}.low",
                    f"{summary.name}_high": f"{found}.high",
                }
            )
        printer = RegionPrinter(scope, lines, self._fixed(expr))
        quick, slow = _by_cost(expr)
        if not slow:
            text = printer.text(expr)
            return (*printer.lines, f"return {unwrapped(text)};")
        by_row = [part for part in slow if _sees_by_row(part)]
        for part in (*quick, *(part for part in slow if part not in by_row)):
            lines.append(f"if (!{printer.text(part)}) return false;")
        lines.append("if constexpr (!TABLES) return true;")
        for part in by_row:
            lines.append(f"if (!{printer.text(part)}) return false;")
        return (*printer.lines, "return true;")

    def print_tables(self, region: Region) -> tuple[TableText, ...]:
        """The tables that tell held rows apart, each an operand of the mask as a conjunction; none
        where the mask is more than that."""
        possible, certain = (
            [part for part in _by_cost(expr)[1] if _sees_by_row(part)]
            for expr in (region.possible, region.certain)
        )
        alike = len(possible) == len(certain) and all(
            one.op == "some" and other.op == "every" and one.args == other.args
            and one.array == other.array and _is_parted(one)
            for one, other in zip(possible, certain, strict=True)
        )  # fmt: skip
        return tuple(self._table(box) for box in possible) if alike else ()

    def _table(self, box: Expr) -> TableText:
        ends = {name: name for name in (*HELD_ENDS, *WALKED_ENDS)}
        scope = self.grid.renamed(Names(set(ends) | {"grid"})).extended(values=ends)
        sides = []
        for side in (HELD_ENDS, WALKED_ENDS):
            printer = RegionPrinter(scope, [], self._fixed(box))
            places = [n for n in free_places(box) if _ends_of(box, n) <= side]
            spans = ", ".join(printer.span(box, place) for place in places)
            sides.append((*printer.lines, f"return entries_of({spans});"))
        return TableText(RegionPrinter(scope, []).table(box), *sides)

    def _fixed(self, *roots: Expr) -> dict[bytes, str]:
        """What is the same for all tiles of a grid instance is computed once, where it begins."""
        found, fields = dict[bytes, str](), self.grid.fields
        for node in _of_grid(*roots):
            if node.args and node.kind == "int":
                printer = Printer(self.grid)
                text = unwrapped(printer.text(node))
                fields.statements += printer.lines
                field = fields.add(f"fixed {node.digest.hex()}", "int64_t", "fixed", text)
                found[node.digest] = f"Bound({field})"
        return found

    def print_alike(self, region: Region) -> tuple[str, ...]:
        """Whether what a region asks of the grid is the same in two instances."""
        asked = dict.fromkeys(_of_grid(region.possible, region.certain))
        if region.summaries or any(expr.kind not in ("int", "bool") for expr in asked):
            return ("return false;",)
        scope = self.grid.renamed(Names({"grid", "one", "other"}))
        fixed = {digest: text[6:-1] for digest, text in self._fixed(*asked).items()}
        printer = Printer(scope, [], fixed)
        texts = [printer.text(expr) for expr in asked]
        both = [f"of(one, {place}) == of(other, {place})" for place in range(len(texts))]
        if not texts:
            return ("return true;",)
        return (
            "const auto of = [](const Grid& grid, int place) -> int64_t {",
            *(f"    {line}" for line in printer.lines),
            f"    const int64_t asked[] = {{{', '.join(f'int64_t({text})' for text in texts)}}};",
            "    return asked[place];",
            "};",
            f"return {' && '.join(both)};",
        )

    def _summary(self, summary: Summary) -> int:
        """The place of a summary, printed at its first use."""
        for place, known in enumerate(self.summaries):
            if known.title == summary.name:
                return place
        index = summary.index
        start = Printer(self.grid).start(index.axis)
        names = Names({"grid", "row", "position_"})
        scope = self.grid.renamed(names).extended(
            positions={index: "position_"}, rows={index: "row"}
        )
        printer = Printer(scope, [f"const int64_t position_ = row + {start};"])
        text = printer.text(summary.expr)
        outer = (*self.kernel.grid, *self.around)
        needed = [one for one in outer if one in summary.expr.free or _shifts(index, one)]
        turning = any(one in needed for one in self.around)
        turns = [self.grid.fields.length(one.axis) for one in self.around if turning]
        slot, slots, owner = "int64_t(0)", "int64_t(1)", []
        for one in outer if turning else self.kernel.grid:
            if one in needed:
                length = self.grid.fields.length(one.axis)
                slot = f"({slot}) * {length} + {self.grid.fields.row(one)}"
                slots = f"{slots} * {length}"
            else:
                owner.append(f"{self.grid.fields.row(one)} == 0")
        self.summaries.append(
            SummaryText(
                title=summary.name,
                type="int64_t" if summary.expr.kind == "int" else "Acc",
                rows=self.grid.fields.length(index.axis),
                slots=slots,
                slot=slot,
                turns=" * ".join(turns) or "1",
                owner=" && ".join(owner) or "true",
                lines=(*printer.lines, f"return {unwrapped(text)};"),
            )
        )
        return len(self.summaries) - 1


def sees_by_row(region: Region) -> bool:
    """Whether tables are asked for held positions one by one: rows of a tile may see apart."""
    return _sees_by_row(region.possible, region.certain)


def _sees_by_row(*exprs: Expr) -> bool:
    boxes = (node for node in postorder(*exprs) if node.op in BOXES)
    return any(node.op == "value" and node.attr == "held_low" for node in postorder(*boxes))


def free_places(box: Expr) -> list[int]:
    """The axes of a table of which a box may hold several rows, or others for other tiles."""
    return [place for place in range(len(box.array.axes)) if _ends_of(box, place)
            or box.args[2 * place] != box.args[2 * place + 1]]  # fmt: skip


def _ends_of(box: Expr, place: int) -> set[str]:
    """The values that one axis of a box depends on."""
    nodes = postorder(*box.args[2 * place :][:2])
    return {str(node.attr) for node in nodes if node.op == "value"}


def _is_parted(box: Expr) -> bool:
    """Whether each axis of a box depends on held positions alone, or on walked ones alone."""
    return all(
        ends and (ends <= HELD_ENDS or ends <= WALKED_ENDS)
        for ends in (_ends_of(box, place) for place in free_places(box))
    )


def _of_grid(*roots: Expr) -> list[Expr]:
    """The largest parts of trees that are the same for a grid instance and differ between some."""
    found, seen, stack = list[Expr](), set[bytes](), list(roots)
    while stack:
        node = stack.pop()
        if node.digest in seen:
            continue
        seen.add(node.digest)
        if node.free and not any(one.op == "value" for one in postorder(node)):
            found.append(node)
        else:
            stack.extend(node.args)
    return found


def _by_cost(root: Expr) -> tuple[list[Expr], list[Expr]]:
    """The operands of a conjunction: those of numbers alone, and those that look into tables."""
    parts, stack = list[Expr](), [root]
    while stack:
        part = stack.pop()
        if part.op == "and":
            stack.extend(reversed(part.args))
        else:
            parts.append(part)
    slow = [part for part in parts if any(node.op in BOXES for node in postorder(part))]
    return [part for part in parts if part not in slow], slow


def _shifts(index: Index, one: Index) -> bool:
    """Whether positions of `index` depend on the batch, which `one` is."""
    return bool(index.axis.shifted) and one.axis.name == "b"
