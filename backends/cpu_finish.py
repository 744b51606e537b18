"""Prints what follows the loops of a stream kernel: values of finished rows, and the stores."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.cpu_names import Names
from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_texts import KeptText, StoreText
from attnc.backends.cpu_words import KEPT, unwrapped

from attnc.expressions.index import Index
from attnc.expressions.tree import postorder
from attnc.schedule.statements import Carried, Store
from attnc.schedule.streams import StreamKernel


@dataclass(frozen=True)
class Finish:
    """The end of one kernel. `grid` is the scope of a grid instance, `held_kept` the arrays of held
    values by name, `tiles` and `statistics` what is carried, in order."""

    kernel: StreamKernel
    grid: Scope
    held_kept: dict[str, str]
    tiles: list[Carried]
    statistics: list[Carried]

    def print(self) -> tuple[KeptText, tuple[StoreText, ...]]:
        names = Names(
            {"grid", "held", "at", "reference", "statistic", "tiles", "finish", "tile", "column"}
        )
        held = self.kernel.held
        start = Printer(self.grid).start(held.axis)
        position = "at.held(held.position_)"
        base = self.grid.renamed(names, lanes=True).extended(
            positions={held: position},
            rows={held: position if start == "int64_t(0)" else f"({position} - {start})"},
            values={name: f"at.held({text})" for name, text in self.held_kept.items()},
        )
        values = {"reference": "reference"}
        values |= {c.name: f"statistic[{place}]" for place, c in enumerate(self.statistics)}
        widths = {}
        for place, carried in enumerate(self.tiles):
            values[carried.name] = f"load(tiles[{place}] + ({{row}}) * TILE + at.lane)"
            assert carried.width is not None
            widths[carried.name] = carried.width
        printer = Printer(base.extended(values=values, widths=widths))
        fields, fill, kept = [], [], {}
        wanted = {
            str(node.attr)
            for s in self.kernel.stores
            for node in postorder(s.expr)
            if node.op == "value"
        }
        lets = [(let.name, let.expr.kind, let.expr) for let in self.kernel.finish]
        for name, _, expr in lets:
            text = printer.bind(name, f"spread({unwrapped(printer.text(expr))})")
            printer.scope = printer.scope.extended(values={name: text})
        own = [*(name for name, _, _ in lets), "reference", *(c.name for c in self.statistics)]
        kinds = {name: kind for name, kind, _ in lets}
        for name in own:
            if name not in wanted:
                continue
            array = names.fresh(f"kept {name}")
            kind = kinds.get(name, "real")
            fields.append(f"alignas(64) {KEPT[kind]} {array}[TILE];")
            fill.append(f"keep_lanes(finish.{array} + at.lane, {printer.scope.values[name]});")
            kept[name] = f"at.held(finish.{array})"
        scope = base.extended(values=kept)
        stores = tuple(self._store(store, scope) for store in self.kernel.stores)
        return KeptText(tuple(fields), (*printer.lines, *fill)), stores

    def _store(self, store: Store, scope: Scope) -> StoreText:
        rows: dict[Index, str] = {}
        values: dict[str, str] = {}
        if store.width is not None:
            rows[store.width] = "int64_t(column)"
        for place, carried in enumerate(self.tiles):
            values[carried.name] = f"tile[{place}]"
        for index in {c.width for c in self.tiles if c.width is not None}:
            rows[index] = "int64_t(column)"
        positions = {}
        for index, row in rows.items():
            start = Printer(scope).start(index.axis)
            positions[index] = row if start == "int64_t(0)" else f"({row} + {start})"
        printer = Printer(scope.extended(rows=rows, positions=positions, values=values))
        text = printer._as("real", printer.text(store.expr), store.expr)
        lines = (*printer.lines, f"return spread({unwrapped(text)});")
        return StoreText(self._target(store), lines)

    def _target(self, store: Store) -> str:
        """The rows of the array that a store writes."""
        base, stride, step = [], "0", "0"
        for place, index in enumerate(store.array.indices):
            by = self.grid.fields.stride(store.array, place)
            if index == self.kernel.held:
                stride = by
            elif index == store.width:
                step = by
            else:
                base.append(f" + {self.grid.fields.row(index)} * {by}")
        kind, pointer = (
            self.grid.fields.slots.types[store.array.name],
            self.grid.fields.pointer(store.array),
        )
        shifted = f"{pointer} ? {pointer}{''.join(base)} : nullptr"
        return f"Rows<{kind}>{{{shifted}, {stride}, {step}}}"
