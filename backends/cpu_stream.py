"""Prints a stream kernel as the C++ class that templates/cpu/stream.hpp takes: its values, regions,
exponent, lifted terms, finish, and where its operands lie.

Does not print packed or paged access, tile lists, carried tiles that are not sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.backends.cpu_finish import Finish
from attnc.backends.cpu_names import GridFields, Names, straight
from attnc.backends.cpu_pairs import PairPrinter
from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_regions import Regions, sees_by_row
from attnc.backends.cpu_scope import Scope
from attnc.backends.cpu_texts import (
    KeptText,
    LoopText,
    StreamText,
    SweepLoopText,
    SweepText,
)
from attnc.backends.cpu_words import (
    INSTEAD,
    KEPT,
    TYPES,
    combined,
    identity,
    listed,
    truth,
    unwrapped,
)

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.passes.follow import found_products
from attnc.schedule.statements import STRIDED, Let, is_pairwise
from attnc.schedule.streams import WalkedLoop


@dataclass
class StreamPrinter(PairPrinter):
    """Prints one stream kernel; `identifier` is the name of its class."""

    def __post_init__(self) -> None:
        self.fields = GridFields(self.slots, (*self.kernel.grid, *self.around))

    @property
    def around(self) -> tuple[Index, ...]:
        """What loops are repeated for: like indices of the grid, but for when they change."""
        return max((loop.around for loop in self.kernel.loops), key=len, default=())

    def print(self) -> StreamText:
        kernel = self.kernel
        self._refuse()
        count = self._enter_grid()
        held = self._held()
        regions = Regions(kernel, self.grid, self.around)
        loops = tuple(self._loop(loop, regions) for loop in kernel.loops)
        sweep = self._sweep()
        held = self._with_drawn(held)
        tiles, statistics = self._tiles, self._statistics
        end = Finish(kernel, self.grid, self.held_kept, tiles, statistics)
        finish, stores = end.print()
        widths = [self._width(index) for index in self._all_widths()] or ["1"]
        start = Printer(self.grid).start(kernel.held.axis)
        rows = self.fields.length(kernel.held.axis)
        walked = ", ".join(loop.walked.name for loop in kernel.loops)
        return StreamText(
            title=f"holds {kernel.held.name}, walks {walked}",
            name=self.identifier,
            statistics=len(statistics),
            tiles=len(tiles),
            products_most=max([1, *(len(p.products) for p in kernel.loops)]),
            running_most=max(len(p.running) for p in loops) if loops else 0,
            layers_most=max([1, *(max(len(p.products), p.layers) for p in loops)]),
            reference=truth(any(p.exponent is not None for p in kernel.loops)),
            wanted=self.wanted.kernel(kernel),
            widths=", ".join(widths),
            tile_widths=listed([self._width(c.width) for c in tiles], "1"),
            tile_rescaled=listed([truth(c.rescaled) for c in tiles], "false"),
            statistic_rescaled=listed([truth(c.rescaled) for c in statistics], "false"),
            statistic_units=listed([identity(c.monoid, "real") for c in statistics], "Acc(0)"),
            store_widths=listed([self._width(s.width) for s in kernel.stores], "1"),
            combine=self._combine(),
            fields=self.fields.declared(),
            grid_count=count,
            enter=self.fields.entered(),
            start=start,
            count=rows,
            held=held,
            idle=self._idle(),
            by_row=truth(any(sees_by_row(loop.region) for loop in kernel.loops)),
            summaries=tuple(regions.summaries),
            loops=loops,
            loop_names=", ".join(f"Loop{place}" for place in range(len(loops))),
            finish=finish,
            stores=stores,
            sweep=sweep,
        )

    def _sweep(self) -> SweepText | None:
        """What the kernel adds to walked rows and tables: none of that here."""
        return None

    # --- What is carried --------------------------------------------------------------------------

    def _combine(self) -> tuple[str, ...]:
        lines = [
            f"if (statistic == {place}) return {combined(carried.monoid, 'a', 'b')};"
            for place, carried in enumerate(self._statistics)
        ]
        return (*lines, "return a + b;")

    def _refuse(self) -> None:
        loops = self.kernel.loops
        if self.kernel.access != STRIDED or any(p.access != STRIDED for p in loops):
            raise UnsupportedError("packed or paged addresses", "cpu", INSTEAD)
        if any(p.chosen is not None for p in loops):
            raise UnsupportedError("chosen blocks", "cpu", INSTEAD)
        if any(carried.monoid != "sum" for carried in self._tiles):
            raise UnsupportedError("a maximum or product over keys of vectors", "cpu", INSTEAD)

    def _width(self, index: Index | None) -> str:
        if index is None:
            return "1"
        macro = self.slots.width(index.axis)
        if macro is None:
            raise UnsupportedError(f"the run-time width `{index.axis.name}`", "cpu", INSTEAD)
        return macro

    def _all_widths(self) -> list[Index]:
        found = [p.width for loop in self.kernel.loops for p in loop.products]
        found += [c.width for c in self._tiles if c.width is not None]
        return found + [s.width for s in self.kernel.stores if s.width is not None]

    # --- Grid and held values ---------------------------------------------------------------------

    def _enter_grid(self) -> str:
        """The rows and positions of grid indices, the grid values; gives back the number of
        instances."""
        counts, fields = [], self.fields
        for number, indices in (("instance", self.kernel.grid), ("turn", self.around)):
            for index in reversed(indices):
                length = self.slots.length(index.axis)
                if number == "instance":
                    counts.append(length)
                else:  # a grid is entered even where there is nothing to walk around
                    length = f"std::max<int64_t>({length}, 1)"
                fields.add(
                    f"row {index.number} {index.name}",
                    "int64_t",
                    f"{index.name} row",
                    f"{number} % {length}",
                )
                fields.statements.append(f"{number} /= {length};")
        rows = {index: fields.row(index) for index in (*self.kernel.grid, *self.around)}
        scope = Scope(fields, Names(), rows=rows)
        printer = Printer(scope)
        positions = {}
        for index in rows:
            start = printer.start(index.axis)
            at = rows[index]
            positions[index] = at if start == "int64_t(0)" else f"({at} + {start})"
        scope = scope.extended(positions=positions)
        for let in self.kernel.grid_values:
            printer = Printer(scope)
            text = printer.text(let.expr)
            name = fields.names.fresh(let.name)
            fields.declarations.append(f"{TYPES[let.expr.kind]} {name};")
            fields.statements += [*printer.lines, f"grid.{name} = {unwrapped(text)};"]
            scope = scope.extended(values={let.name: f"grid.{name}"})
        self.grid = scope
        return " * ".join(reversed(counts)) or "1"

    def _held(self) -> KeptText:
        start = Printer(self.grid).start(self.kernel.held.axis)
        return self._keep(self.kernel.held, start, self.kernel.held_values, "held", self.held_kept)

    def _idle(self) -> str:
        """Whether a held row is idle; nothing where none ever is."""
        if self.kernel.idle is None:
            return ""
        return f"{self.held_kept[str(self.kernel.idle.attr)]}[at]"

    def _with_drawn(self, held: KeptText) -> KeptText:
        """The held values with the random numbers that the loops keep beside them."""
        fields = (f"mutable Drawn<N> {name};" for name in self.drawn.values())
        fill = (f"held.{name}.forget(at);" for name in self.drawn.values())
        return KeptText((*held.fields, *fields), (*held.fill, *fill))

    def _keep(
        self, index: Index, start: str, lets: tuple[Let, ...], owner: str, kept: dict[str, str]
    ) -> KeptText:
        """Values of single positions: `kept` gets the text of each as an array's name."""
        names = Names({"at", "row", "grid", owner, "position_"})
        scope = self.grid.extended(positions={index: "position_"}, rows={index: "row"})
        printer = Printer(scope.renamed(names))
        fields = ["alignas(64) Int position_[N];"]
        fill = [f"{owner}.position_[at] = Int(position_);"]
        for let in lets:
            text = printer.bind(let.name, printer.text(let.expr))
            printer.scope = printer.scope.extended(values={let.name: text})
            name = names.fresh(let.name)
            fields.append(f"alignas(64) {KEPT[let.expr.kind]} {name}[N];")
            stored = f"keep({text}, grid.too_wide)" if let.expr.kind == "int" else text
            fill.append(f"{owner}.{name}[at] = {stored};")
            kept[let.name] = f"{owner}.{name}"
        head = f"const int64_t position_ = row + {start};"
        return KeptText(tuple(fields), (head, *printer.lines, *fill))

    # --- Loops ------------------------------------------------------------------------------------

    def _loop(self, loop: WalkedLoop, regions: Regions) -> LoopText:
        walked_kept: dict[str, str] = {}
        start = Printer(self.grid).start(loop.walked.axis)
        walked = self._keep(loop.walked, start, loop.walked_values, "walked", walked_kept)
        terms = self._terms(loop)
        layers = self._layers(loop)
        kernel, needed = self.kernel, self.wanted.carried
        needs = self.wanted.products(kernel, loop)
        for name, (_, ready) in self._found(loop).items():
            needs[name] = f"({needs[name]}) && !({ready})"
        places = {carried.name: str(place) for place, carried in enumerate(self._tiles)}
        held = kernel.held
        operands = []
        for term in terms:
            width = self._carried(term.carried).width
            if term.operand is None or width is None:
                raise UnsupportedError("a carried vector without an operand", "cpu", INSTEAD)
            pairwise = is_pairwise(term.operand, loop.walked, held)
            rows = "" if pairwise else self._rows(term.operand, loop.walked, width)
            operands.append(rows)
        count = self.fields.length(loop.walked.axis)
        if loop.walked.axis is self.keys:
            count = self.fields.key_length(loop.walked.axis)
        return LoopText(
            title=loop.walked.name,
            products=loop.products,
            terms=tuple(term.term for term in terms),
            depths=listed([self._width(p.width) for p in loop.products], "1"),
            targets=listed([places[t.carried] for t in terms], "0"),
            layers=len(layers),
            layer=listed([str(layers.index(t.term.digest)) for t in terms], "0"),
            product_wanted=listed([needs[p.name] for p in loop.products], "true"),
            term_wanted=listed([needed(kernel, t.carried) for t in terms], "true"),
            mask=truth(loop.visible is not None),
            has_exponent=truth(loop.exponent is not None),
            start=start,
            count=count,
            length=self.fields.length(loop.walked.axis),
            lefts=tuple(self._rows(p.left, held, p.width) for p in loop.products),
            rights=tuple(self._rows(p.right, loop.walked, p.width) for p in loop.products),
            pairwise=listed([truth(not rows) for rows in operands], "false"),
            operands=tuple(operands),
            vectors=tuple(self._vectors(loop, walked_kept)),
            running=tuple(self._running(loop, one, walked_kept) for one in loop.running),
            upward=truth(bool(loop.running) and not loop.backward),
            walked=walked,
            possible=regions.print(loop.region, loop.region.possible),
            certain=regions.print(loop.region, loop.region.certain),
            tables=regions.print_tables(loop.region),
            alike=regions.print_alike(loop.region),
            walked_alike=truth(all(let.expr.free <= {loop.walked} for let in loop.walked_values)),
            exponent=self._exponent(loop, walked_kept),
            lift=self._lift(loop, walked_kept),
            sweep=self._sweep_loop(loop, walked_kept),
        )

    def _found(self, loop: WalkedLoop) -> dict[str, tuple[int, str]]:
        """The products of a loop that the kernel ahead has too, by name: where, and if it does."""
        if self.leader is None:
            return {}
        led = self.leader.loops[self.kernel.loops.index(loop)]
        ready = self.wanted.products(self.leader, led)
        places = found_products(loop, led)
        return {name: (at, ready[led.products[at].name]) for name, at in places.items()}

    def _sweep_loop(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> SweepLoopText | None:
        return None

    def _rows(self, read: Expr, index: Index, width: Index) -> str:
        """The address of an operand: a read over (grid, index, width)."""
        if read.op != "read":
            raise UnsupportedError("a product of computed operands", "cpu", INSTEAD)
        array, printer = read.array, Printer(self.grid)
        base, stride, step = [], "0", "0"
        for place, at in enumerate(read.args):
            by = self.fields.stride(array, place)
            if straight(index, array, place, at):
                stride = by
            elif straight(width, array, place, at):
                step = by
            elif at.free <= frozenset((*self.kernel.grid, *self.around)):
                first = printer.start(array.axes[place])
                row = printer.text(at)
                row = row if first == "int64_t(0)" else f"({row} - {first})"
                base.append(f" + {row} * {by}")
            else:
                raise UnsupportedError(f"rows of `{array.name}` out of order", "cpu", INSTEAD)
        kind = self.slots.types[array.name]
        pointer = self.fields.pointer(array)
        rows = f"Rows<{kind}>{{{pointer}{''.join(base)}, {stride}, {step}}}"
        if printer.lines:
            return f"[&] {{ {' '.join(printer.lines)} return {rows}; }}()"
        return rows
