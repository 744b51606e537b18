"""Prints what a loop of a stream kernel computes for each pair.

Its values, mask and exponent, what runs along the walk, lifted terms and what they add to the
carried values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnc.backends.cpu_names import GridFields, Names, Slots
from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_scope import Drawn, Scope
from attnc.backends.cpu_texts import RunningText, VectorText
from attnc.backends.cpu_wanted import Wanted
from attnc.backends.cpu_words import combined, identity, truth, unwrapped

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr, postorder
from attnc.schedule.statements import Carried, Contribution, Running, is_pairwise
from attnc.schedule.streams import StreamKernel, WalkedLoop


@dataclass
class PairPrinter:
    """What printing a kernel knows when it comes to pairs; `identifier` is the name of its class.

    leader      the kernel that goes ahead of it tile by tile, whose products it finds
    grid        what grid indices and values stand for
    held_kept   held values by name: where they are kept
    drawn       random numbers that are kept beside held positions, by ordinal
    """

    kernel: StreamKernel
    slots: Slots
    identifier: str
    keys: Axis | None
    wanted: Wanted
    leader: StreamKernel | None = None
    fields: GridFields = field(init=False)
    grid: Scope = field(init=False)
    held_kept: dict[str, str] = field(default_factory=dict)
    drawn: dict[object, str] = field(default_factory=dict)

    # --- What is carried, and what a loop adds to it ----------------------------------------------

    def _carried(self, name: str) -> Carried:
        return next(carried for carried in self.kernel.carried if carried.name == name)

    @property
    def _tiles(self) -> list[Carried]:
        return [carried for carried in self.kernel.carried if carried.width is not None]

    @property
    def _statistics(self) -> list[Carried]:
        return [carried for carried in self.kernel.carried if carried.width is None]

    def _terms(self, loop: WalkedLoop) -> list[Contribution]:
        """What a loop adds to carried tiles."""
        return [c for c in loop.contributions if self._carried(c.carried).width is not None]

    def _layers(self, loop: WalkedLoop) -> list[bytes]:
        """The terms that are kept for each pair of a block, each once."""
        return list(dict.fromkeys(t.term.digest for t in self._terms(loop)))

    # --- The values of a pair ---------------------------------------------------------------------

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
        own, summed, ahead = map(truth, (one.inclusive, one.monoid == "sum", one.ahead))
        return RunningText(unit, joined, own, summed, ahead, lines)

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
