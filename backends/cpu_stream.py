"""Prints a stream kernel as the C++ class that templates/cpu/stream.hpp takes: its values, regions,
exponent, lifted terms, finish, and where its operands lie.

Does not print packed or paged access, tile lists, carried tiles that are not sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.backends.cpu_finish import Finish
from attnc.backends.cpu_names import GridFields, Names, Slots, straight
from attnc.backends.cpu_printer import (
    INSTEAD,
    KEPT,
    TYPES,
    Drawn,
    Printer,
    Scope,
    combined,
    identity,
    unwrapped,
)
from attnc.backends.cpu_regions import Regions, sees_by_row
from attnc.backends.cpu_texts import (
    KeptText,
    LoopText,
    RunningText,
    StreamText,
    SweepLoopText,
    SweepText,
    VectorText,
)
from attnc.backends.cpu_wanted import Wanted

from attnc.errors import UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule.statements import STRIDED, Carried, Contribution, Let, Running, is_pairwise
from attnc.schedule.streams import StreamKernel, WalkedLoop


@dataclass
class StreamPrinter:
    """Prints one stream kernel; `identifier` is the name of its class."""

    kernel: StreamKernel
    slots: Slots
    identifier: str
    keys: Axis | None
    wanted: Wanted
    fields: GridFields = field(init=False)
    grid: Scope = field(init=False)
    held_kept: dict[str, str] = field(default_factory=dict)
    drawn: dict[object, str] = field(default_factory=dict)

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
            reference=_truth(any(p.exponent is not None for p in kernel.loops)),
            widths=", ".join(widths),
            tile_widths=_list([self._width(c.width) for c in tiles], "1"),
            tile_rescaled=_list([_truth(c.rescaled) for c in tiles], "false"),
            statistic_rescaled=_list([_truth(c.rescaled) for c in statistics], "false"),
            statistic_units=_list([identity(c.monoid, "real") for c in statistics], "Acc(0)"),
            store_widths=_list([self._width(s.width) for s in kernel.stores], "1"),
            combine=self._combine(),
            fields=tuple(self.fields.declarations),
            grid_count=count,
            enter=tuple(self.fields.statements),
            start=start,
            count=rows,
            held=held,
            idle=self._idle(),
            by_row=_truth(any(sees_by_row(loop.region) for loop in kernel.loops)),
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

    @property
    def _tiles(self) -> list[Carried]:
        return [carried for carried in self.kernel.carried if carried.width is not None]

    @property
    def _statistics(self) -> list[Carried]:
        return [carried for carried in self.kernel.carried if carried.width is None]

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
        needs = self.wanted.products(self.kernel, loop)
        places = {carried.name: str(place) for place, carried in enumerate(self._tiles)}
        held = self.kernel.held
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
            depths=_list([self._width(p.width) for p in loop.products], "1"),
            targets=_list([places[t.carried] for t in terms], "0"),
            layers=len(layers),
            layer=_list([str(layers.index(t.term.digest)) for t in terms], "0"),
            product_wanted=_list([needs[p.name] for p in loop.products], "true"),
            term_wanted=_list([self.wanted.carried(self.kernel, t.carried) for t in terms], "true"),
            mask=_truth(loop.visible is not None),
            has_exponent=_truth(loop.exponent is not None),
            start=start,
            count=count,
            length=self.fields.length(loop.walked.axis),
            lefts=tuple(self._rows(p.left, held, p.width) for p in loop.products),
            rights=tuple(self._rows(p.right, loop.walked, p.width) for p in loop.products),
            pairwise=_list([_truth(not rows) for rows in operands], "false"),
            operands=tuple(operands),
            vectors=tuple(self._vectors(loop, walked_kept)),
            running=tuple(self._running(loop, one, walked_kept) for one in loop.running),
            upward=_truth(bool(loop.running) and not loop.backward),
            walked=walked,
            possible=regions.print(loop.region, loop.region.possible),
            certain=regions.print(loop.region, loop.region.certain),
            alike=regions.print_alike(loop.region),
            walked_alike=_truth(all(let.expr.free <= {loop.walked} for let in loop.walked_values)),
            exponent=self._exponent(loop, walked_kept),
            lift=self._lift(loop, walked_kept),
            sweep=self._sweep_loop(loop, walked_kept),
        )

    def _terms(self, loop: WalkedLoop) -> list[Contribution]:
        """What a loop adds to carried tiles."""
        return [c for c in loop.contributions if self._carried(c.carried).width is not None]

    def _layers(self, loop: WalkedLoop) -> list[bytes]:
        """The terms that are kept for each pair of a block, each once."""
        return list(dict.fromkeys(t.term.digest for t in self._terms(loop)))

    def _sweep_loop(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> SweepLoopText | None:
        return None

    def _carried(self, name: str) -> Carried:
        return next(carried for carried in self.kernel.carried if carried.name == name)

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

    def _vectors(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> list[VectorText]:
        """The operands that are vectors of each pair."""
        found = []
        for place, term in enumerate(self._terms(loop)):
            width = self._carried(term.carried).width
            assert term.operand is not None and width is not None
            if is_pairwise(term.operand, loop.walked, self.kernel.held):
                found.append(self._vector(place, term.operand, width, loop, walked_kept))
        return found

    def _vector(
        self, place: int, expr: Expr, width: Index, loop: WalkedLoop, walked_kept: dict[str, str]
    ) -> VectorText:
        """An operand over pairs at one column of its width."""
        scope = self._pair_scope(loop, walked_kept)
        scope.names.taken |= {"column"}
        start = Printer(scope).start(width.axis)
        at = "column" if start == "int64_t(0)" else f"(column + {start})"
        printer = Printer(scope.extended(positions={width: at}, rows={width: "column"}))
        text = unwrapped(printer._as("real", printer.text(expr), expr))
        return VectorText(place, (*printer.lines, f"return spread({text});"))

    def _pair_scope(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> Scope:
        """The scope of pairs: values are loaded where they are used."""
        held, walked = self.kernel.held, loop.walked
        names = Names(
            {"grid", "held", "walked", "at", "reference", "product", "peak", "weight", "sums"}
        )
        values = {name: f"at.held({text})" for name, text in self.held_kept.items()}
        values |= {name: f"at.walked({text})" for name, text in walked_kept.items()}
        values |= {p.name: f"product[{place}]" for place, p in enumerate(loop.products)}
        values["reference"] = "reference"
        positions = {held: "at.held(held.position_)", walked: "at.walked(walked.position_)"}
        printer = Printer(self.grid)
        rows = {
            index: text
            if printer.start(index.axis) == "int64_t(0)"
            else f"({text} - {printer.start(index.axis)})"
            for index, text in positions.items()
        }
        drawn = Drawn(held, walked, frozenset(self.kernel.grid), self.drawn)
        scope = replace(self.grid.renamed(names, lanes=True), drawn=drawn)
        return scope.extended(positions=positions, rows=rows, values=values)

    def _mask(self, loop: WalkedLoop, printer: Printer) -> str:
        """The name of what masks a pair, "" where nothing does; with MASKED false only `hidden`."""
        hidden = printer.text(loop.hidden) if loop.hidden is not None else ""
        if loop.visible is None:
            return printer.bind("shown", f"negated({hidden})") if hidden else ""
        inner = Printer(printer.scope, [], dict(printer.done), dict(printer.guards))
        visible = inner.text(loop.visible)
        shown = printer.scope.names.fresh("shown")
        printer.lines.append(
            f"Truth {shown} = {f'spread(negated({hidden}))' if hidden else 'Truth(true)'};"
        )
        keeps = f"both({shown}, spread({visible}))"
        printer.lines += ["if constexpr (MASKED) {", *(f"    {x}" for x in inner.lines)]
        printer.lines += [f"    {shown} = {keeps};", "}"]
        return shown

    def _exponent(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> tuple[str, ...]:
        if loop.exponent is None:
            return ("return Real(0);",)
        printer = Printer(self._pair_scope(loop, walked_kept))
        self._pair_values(loop, printer)
        shown = self._mask(loop, printer)
        text = f"spread({unwrapped(printer.text(loop.exponent))})"
        if shown:
            plain = "MASKED" if loop.hidden is None else "true"
            printer.lines.append(
                f"if constexpr ({plain}) return select({shown}, {text}, Real(-INFINITE));"
            )
        return (*printer.lines, f"return {text};")

    def _running(self, loop: WalkedLoop, one: Running, walked_kept: dict[str, str]) -> RunningText:
        """What a pair adds to a running value, from what is known before it."""
        before = loop.running[: loop.running.index(one)]
        printer = Printer(self._pair_scope(loop, walked_kept))
        self._pair_values(loop, printer, {other.name for other in before})
        shown = self._mask(loop, printer)
        unit = identity(one.monoid, "real")
        text = f"spread({unwrapped(printer._as('real', printer.text(one.expr), one.expr))})"
        if shown:
            test = "" if loop.hidden is not None else f"!MASKED ? {text} : "
            text = f"{test}select({shown}, {text}, Real({unit}))"
        joined = combined(one.monoid, "a", "b")
        lines = (*printer.lines, f"return {text};")
        own, summed, ahead = map(_truth, (one.inclusive, one.monoid == "sum", one.ahead))
        return RunningText(unit, joined, own, summed, ahead, lines)

    def _pair_values(
        self, loop: WalkedLoop, printer: Printer, known: set[str] | None = None
    ) -> None:
        """Binds the values of a pair; `known`: the running values that there are, all if None."""
        missing: set[str] = set()
        for place, one in enumerate(loop.running, len(loop.products)):
            if known is not None and one.name not in known:
                missing.add(one.name)
            else:
                values = {one.name: f"product[{place}]"}
                printer.scope = printer.scope.extended(values=values)
        for let in loop.pair_values:
            if isinstance(let, Running):
                continue
            if missing & {str(n.attr) for n in postorder(let.expr) if n.op == "value"}:
                missing.add(let.name)
                continue
            name = printer.bind(let.name, printer.text(let.expr))
            printer.scope = printer.scope.extended(values={let.name: name})

    def _lift(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> tuple[str, ...]:
        printer = Printer(self._pair_scope(loop, walked_kept))
        self._pair_values(loop, printer)
        shown = self._mask(loop, printer)
        always = loop.hidden is not None
        if loop.exponent is not None:
            text = printer.bind("exponent", f"spread({unwrapped(printer.text(loop.exponent))})")
            if shown:
                masked = printer.scope.names.fresh("seen")
                test = "true" if always else "MASKED"
                printer.lines.append(
                    f"const Real {masked} = "
                    f"{test} ? select({shown}, {text}, Real(-INFINITE)) : {text};"
                )
                text = masked
            printer.lines.append(f"peak = raise(peak, {text});")
            printer.done[loop.exponent.digest] = text
        for let in loop.lifted:
            name = printer.bind(let.name, printer.text(let.expr))
            printer.scope = printer.scope.extended(values={let.name: name})
        self._contribute(loop, printer, shown, always)
        return tuple(printer.lines)

    def _contribute(self, loop: WalkedLoop, printer: Printer, shown: str, always: bool) -> None:
        statistics = {carried.name: place for place, carried in enumerate(self._statistics)}
        layers, done = self._layers(loop), set[int]()
        for contribution in loop.contributions:
            carried = self._carried(contribution.carried)
            unit = identity(carried.monoid, "real")
            expr = contribution.term
            term = f"spread({unwrapped(printer._as('real', printer.text(expr), expr))})"
            if shown:
                none = unit if carried.width is None else "-Acc(0)"  # -0 says masked
                test = "" if always else "!MASKED ? " + term + " : "
                term = f"{test}select({shown}, {term}, Real({none}))"
            if carried.width is None:
                at = f"sums[{statistics[carried.name]}]"
                name = printer.bind("term", term)
                printer.lines.append(f"{at} = {combined(carried.monoid, at, name)};")
                continue
            place = layers.index(expr.digest)
            if place not in done:
                printer.lines.append(f"weight[{place}] = {term};")
            done.add(place)


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _list(items: list[str], empty: str) -> str:
    return ", ".join(items) or empty
