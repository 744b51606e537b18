"""Prints a sweep: a stream kernel that also adds to the rows that it walks and to tables, or that
walks around several indices (templates/cpu/sweep.hpp).

Does not print sweeps with a running reference, nor tables over some of the indices around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attnc.backends.cpu_printer import Printer
from attnc.backends.cpu_stream import StreamPrinter
from attnc.backends.cpu_texts import PanelText, PlaneText, SweepLoopText, SweepText, VectorText
from attnc.backends.cpu_words import INSTEAD, listed, literal, truth, unwrapped

from attnc.errors import InternalError, UnsupportedError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, is_number, number, number_of
from attnc.schedule import Kernel
from attnc.schedule.statements import Contribution, Deposit, PairStore, Scatter, is_pairwise
from attnc.schedule.streams import StreamKernel, WalkedLoop

Write = Deposit | Scatter | PairStore


def _otherwise(one: Contribution | Write) -> float:
    """What a masked pair stores, or adds."""
    return one.otherwise if isinstance(one, PairStore) else 0.0


def _layer(one: Contribution | Write) -> bytes:
    """Terms that are one number for each pair, masked ones included."""
    return one.term.digest + (repr(_otherwise(one)).encode() if _otherwise(one) else b"")


def _is_guarded(one: Deposit) -> bool:
    """Whether the term is -0, which says masked, for pairs that the loop does not mask."""
    other = one.term.args[2] if one.term.op == "where" else one.term
    return is_number(other, 0) and math.copysign(1.0, number_of(other)) < 0


def _hidden(one: Contribution | Write) -> str:
    return literal(number(_otherwise(one)))


def sweeps(kernel: Kernel, keys: Axis | None = None) -> bool:
    """Whether a kernel is printed as a sweep; `keys`: the axis whose entries a call may bound, of
    which a sweep alone can hold those that count."""
    if not isinstance(kernel, StreamKernel):
        return False
    tracked = any(loop.exponent is not None for loop in kernel.loops)
    if kernel.held.axis is keys and kernel.repeated and not tracked:
        return True
    return any(
        loop.deposits or loop.scatters or loop.pair_stores or loop.around for loop in kernel.loops
    )


@dataclass
class SweepPrinter(StreamPrinter):
    """Prints one sweep; `identifier` is the name of its class."""

    def _refuse(self) -> None:
        super()._refuse()
        if any(loop.exponent is not None for loop in self.kernel.loops):
            raise UnsupportedError("sums over rows beside a running maximum", "cpu", INSTEAD)
        if any(loop.around not in ((), self.around) for loop in self.kernel.loops):
            raise UnsupportedError("key sources over different heads", "cpu", INSTEAD)

    # --- Layers: the terms of a pair --------------------------------------------------------------

    def _layers(self, loop: WalkedLoop) -> list[bytes]:
        return list(dict.fromkeys(map(_layer, (*self._terms(loop), *loop.writes))))

    def _contribute(self, loop: WalkedLoop, printer: Printer, shown: str, always: bool) -> None:
        super()._contribute(loop, printer, shown, always)
        layers = self._layers(loop)
        done = {_layer(term) for term in self._terms(loop)}
        for one in loop.writes:
            if _layer(one) in done:
                continue
            done.add(_layer(one))
            hidden = "-Acc(0)" if not _otherwise(one) else _hidden(one)
            text = f"spread({unwrapped(printer._as('real', printer.text(one.term), one.term))})"
            if shown:
                test = "" if always else f"!MASKED ? {text} : "
                text = f"{test}select({shown}, {text}, Real({hidden}))"
            printer.lines.append(f"weight[{layers.index(_layer(one))}] = {text};")

    def _layer_uses(self, loop: WalkedLoop) -> list[str]:
        """What each layer is for, as far as it is wanted."""
        uses: list[list[str]] = [[] for _ in self._layers(loop)]

        def add(one: Contribution | Write, condition: str, use: str) -> None:
            text = use if condition == "true" else f"({condition} ? {use} : 0)"
            into = uses[self._layers(loop).index(_layer(one))]
            into += [text] if text not in into else []

        for one in self._terms(loop):
            add(one, self.wanted.carried(self.kernel, one.carried), "ADDED")
        for deposit in loop.deposits:
            plain = deposit.operand is None or self._is_pairwise(loop, deposit)
            use = "PLAIN" if plain else "DEPOSITED"
            add(deposit, self.wanted.array(deposit.array), use)
        others: tuple[Scatter | PairStore, ...] = (*loop.scatters, *loop.pair_stores)
        for other in others:
            add(other, self.wanted.array(other.array), "PLAIN")
        return [" | ".join(texts) or "0" for texts in uses]

    def _is_pairwise(self, loop: WalkedLoop, one: Deposit) -> bool:
        return one.operand is not None and is_pairwise(one.operand, self.kernel.held, loop.walked)

    def _vectors(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> list[VectorText]:
        """Those of the terms, then those of deposits, counted on."""
        found = super()._vectors(loop, walked_kept)
        for place, one in enumerate(loop.deposits, len(self._terms(loop))):
            if one.operand is not None and one.width is not None and self._is_pairwise(loop, one):
                found.append(self._vector(place, one.operand, one.width, loop, walked_kept))
        return found

    # --- Loops ------------------------------------------------------------------------------------

    def _sweep_loop(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> SweepLoopText:
        before = self.kernel.loops[: self.kernel.loops.index(loop)]
        found = self._found(loop)
        taken = [
            "({1} ? {0} : -1)".format(*found[p.name]) if p.name in found else "-1"
            for p in loop.products
        ]
        return SweepLoopText(
            taken=listed(taken, "-1"),
            around="true" if loop.around else "false",
            hidden="true" if loop.hidden is not None else "false",
            guarded=truth(any(map(_is_guarded, loop.deposits)) or loop.hidden is not None),
            layer_uses=", ".join(self._layer_uses(loop)) or "0",
            first_deposit=sum(len(one.deposits) for one in before),
            deposits=len(loop.deposits),
            first_scatter=sum(len(one.scatters) for one in before),
            scatters=len(loop.scatters),
            first_plane=sum(len(one.pair_stores) for one in before),
            planes=len(loop.pair_stores),
            places=self._places(loop, walked_kept),
        )

    def _places(self, loop: WalkedLoop, walked_kept: dict[str, str]) -> tuple[str, ...]:
        """The rows of tables that a pair adds to; -1 where it is masked."""
        if not loop.scatters:
            return ()
        scope = self._pair_scope(loop, walked_kept)
        scope.names.taken |= {"place"}
        printer = Printer(scope)
        self._pair_values(loop, printer)
        shown = self._mask(loop, printer)
        for place, scatter in enumerate(loop.scatters):
            start = printer.start(scatter.array.axes[self._table_place(scatter)])
            text = unwrapped(printer.text(scatter.at))
            text = f"spread({text if start == 'int64_t(0)' else f'{text} - {start}'})"
            if shown:
                test = "" if loop.hidden is not None else f"!MASKED ? {text} : "
                text = f"{test}select({shown}, {text}, Integer(-1))"
            printer.lines.append(f"place[{place}] = {text};")
        return tuple(printer.lines)

    def _table_place(self, scatter: Scatter) -> int:
        """The dimension of a table that pairs choose."""
        outer = (*self.kernel.grid, *self.around, scatter.width)
        places = [n for n, index in enumerate(scatter.array.indices) if index not in outer]
        if len(places) != 1:
            raise InternalError(f"`{scatter.array.name}` is no table of one index")
        return places[0]

    # --- Panels -----------------------------------------------------------------------------------

    def _sweep(self) -> SweepText:
        loops, kernel = self.kernel.loops, self.kernel
        panels = [self._deposit(loop, one) for loop in loops for one in loop.deposits]
        deposits = len(panels)
        panels += [self._scatter(loop, one) for loop in loops for one in loop.scatters]
        titles = [panel.title for panel in panels]
        used: list[list[str]] = []
        for loop in loops:
            for place, text in enumerate(self._layer_uses(loop)):
                used += [[]] if place == len(used) else []
                used[place].append(f"({text})")
        turns = [self.fields.length(index.axis) for index in self.around]
        share, shares = "int64_t(0)", "int64_t(1)"
        if kernel.split is not None:
            share = self.fields.row(kernel.split)
            length = self.slots.length(kernel.split.axis)
            shares = self.fields.add("shares", "int64_t", "shares", length)
        valid = self.fields.length(kernel.held.axis)
        if kernel.held.axis is self.keys:
            valid = self.fields.key_length(kernel.held.axis)
        return SweepText(
            deposits=deposits,
            scatters=len(panels) - deposits,
            layer_uses=", ".join(" | ".join(texts) for texts in used) or "0",
            turns=" * ".join(turns) or "1",
            share=share,
            shares=shares,
            valid=valid,
            panels=tuple(panels),
            owners=tuple(titles.index(title) for title in titles),
            planes=tuple(self._plane(loop, one) for loop in loops for one in loop.pair_stores),
        )

    def _deposit(self, loop: WalkedLoop, one: Deposit) -> PanelText:
        rows = self.fields.length(loop.walked.axis)
        operand = ""
        if one.operand is not None and one.width is not None and not self._is_pairwise(loop, one):
            operand = self._rows(one.operand, self.kernel.held, one.width)
        place = one.array.indices.index(loop.walked)
        return self._panel(loop, one, place, rows, operand, held=True)

    def _scatter(self, loop: WalkedLoop, one: Scatter) -> PanelText:
        place = self._table_place(one)
        rows = self.fields.length(one.array.axes[place])
        operand, held = "", False
        if one.operand is not None and one.width is not None:
            held = self.kernel.held in one.operand.free
            index = self.kernel.held if held else loop.walked
            operand = self._rows(one.operand, index, one.width)
        return self._panel(loop, one, place, rows, operand, held)

    def _panel(
        self,
        loop: WalkedLoop,
        one: Deposit | Scatter,
        place: int,
        rows: str,
        operand: str,
        held: bool,
    ) -> PanelText:
        if (one.operand is None) != (one.width is None):
            raise UnsupportedError("a vector for each pair without an operand", "cpu", INSTEAD)
        turning = [index in one.array.indices for index in loop.around]
        if any(turning) and not all(turning):
            raise UnsupportedError("sums over some of the heads of a group", "cpu", INSTEAD)
        return PanelText(
            title=one.array.name,
            width="0" if one.width is None else self._width(one.width),
            layer=str(self._layers(loop).index(_layer(one))),
            turns="true" if any(turning) else "false",
            wanted=self.wanted.array(one.array),
            kept=truth(one.array.role == "workspace"),
            held="true" if held else "false",
            pairwise="true" if isinstance(one, Deposit) and one.width and not operand else "false",
            rows=rows,
            target=self._target(one.array, place, one.width),
            operand=operand,
        )

    def _plane(self, loop: WalkedLoop, one: PairStore) -> PlaneText:
        """Where the numbers of pairs are stored."""
        base, steps = [], {self.kernel.held: "0", loop.walked: "0"}
        for place, index in enumerate(one.array.indices):
            by = self.fields.stride(one.array, place)
            if index in steps:
                steps[index] = by
            else:
                base.append(f" + {self.fields.row(index)} * {by}")
        kind, pointer = self.slots.types[one.array.name], self.fields.pointer(one.array)
        shifted = f"{pointer} ? const_cast<{kind}*>({pointer}){''.join(base)} : nullptr"
        fields = f"{shifted}, {steps[self.kernel.held]}, {steps[loop.walked]}, {_hidden(one)}"
        target = f"Plane<{kind}>{{{fields}}}"
        layer = str(self._layers(loop).index(_layer(one)))
        return PlaneText(one.array.name, layer, target)

    def _target(self, array: Array, row: int, width: Index | None) -> str:
        """The rows of an array that are added to, along its dimension `row`."""
        base, step = [], "0"
        for place, index in enumerate(array.indices):
            by = self.fields.stride(array, place)
            if index == width:
                step = by
            elif place != row:
                base.append(f" + {self.fields.row(index)} * {by}")
        kind, pointer = self.slots.types[array.name], self.fields.pointer(array)
        shifted = f"{pointer} ? {pointer}{''.join(base)} : nullptr"
        stride = self.fields.stride(array, row)
        return f"Rows<{kind}>{{{shifted}, {stride}, {step}}}"
