"""One derivative Graph to kernels: its outputs as formulas of sums over pairs, and who makes them.

does      takes outputs apart (gradients), finishes row values before (row_values), gives each sum
          to a kernel that holds rows or keys (gradient_kernels), the rest to maps; orders kernels
needs     a Graph made by differentiate, once or twice, and the forward's frame
does not  know signatures, or what the forward saves for it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, Role, position, postorder, read, rewrite
from attnc.graph import Graph
from attnc.passes.columns import emit_columns
from attnc.passes.contract import Preparations
from attnc.passes.exponents import scaled
from attnc.passes.finish import Lowering, Target
from attnc.passes.follow import found_products, leaders
from attnc.passes.frame import Frame
from attnc.passes.gradient_kernels import (
    Formula,
    Holder,
    Kernels,
    can_deposit,
    deposited,
    direct,
    in_kernel,
    key_holder,
    read_back,
    sum_of,
)
from attnc.passes.gradients import Gradients
from attnc.passes.guarded import with_guards
from attnc.passes.hoist import Names, names_in
from attnc.passes.kept_rows import KeptRows
from attnc.passes.key_heads import uncoarsened
from attnc.passes.maps import map_of
from attnc.passes.nesting import outward
from attnc.passes.pair_sums import PairSum, PairSums
from attnc.passes.pipeline import finished
from attnc.passes.prune import arrays_read, arrays_written
from attnc.passes.reductions import Reductions
from attnc.passes.references import REFERENCE
from attnc.passes.refusals import refuse
from attnc.passes.roles import Roles
from attnc.passes.row_values import RowValues
from attnc.passes.scans import compared
from attnc.passes.stream import emit as emit_kernels
from attnc.passes.stream import emit_passes, emit_solves, used_by, without_stop
from attnc.schedule import Kernel, Schedule, Workspace
from attnc.schedule.statements import Contribution, Deposit, Scatter
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.signature import Signature

Sweep = Literal["one", "two"]


class Backward:
    """Lowers one derivative Graph: `run`, then `schedule`. `later`: the cotangents by what they are
    of; `forward`: the reductions of a forward that can save, or None; `keeping`: whether what it
    saves is an output of its own schedule, or a workspace of this one."""

    def __init__(
        self,
        graph: Graph,
        frame: Frame,
        sweep: Sweep,
        later: dict[str, Array],
        forward: Reductions | None,
        keeping: Role = "output",
    ) -> None:
        self.graph = graph
        self.frame = frame
        self.sweep = sweep
        self.names = Names(names_in(graph) | {REFERENCE})
        if forward is not None:
            self.names.taken |= forward.names.taken
        self.preparations = Preparations(names=self.names)
        self.roles = Roles(frame, self.names.fresh("head_group"))
        cotangent = frozenset(array.name for array in later.values())
        exponents: set[str] = set()

        def kept(reductions: Reductions, word: str, role: Role) -> KeptRows:
            return KeptRows(frame, self.names, reductions, word, role, exponents)

        saved = None if forward is None else kept(forward, "saved", keeping)
        passing = Reductions(frame, names=self.names, relative=exponents)
        passed = kept(passing, "finished", "workspace")
        self.values = RowValues(self.roles, self.names, saved, passed, cotangent)
        self.pair_sums = PairSums(self.roles, self.values, self.names)
        self.made = Kernels(self.roles, self.preparations)
        self.lowered: list[tuple[Array, Expr]] = []
        self.in_order = False  # values run along the keys
        self.rows_held = False  # one loop holds rows, and adds to the keys that it walks

    @property
    def _lays_rows(self) -> bool:
        """Whether loops that hold keys add to the rows that they walk."""
        return self.sweep == "one" and not self.rows_held

    def run(self) -> None:
        """Every output as a formula of sums, and the kernels that make them."""
        nodes = postorder(*(output.expr for output in self.graph.outputs))
        self.in_order = any(compared(node, self.frame.walked) for node in nodes)
        for output in self.graph.outputs:
            whole = uncoarsened(rewrite(output.expr, without_stop), self.roles)
            expr = Gradients(self.pair_sums).lower(whole, output.array.indices)
            self.lowered.append((output.array, expr))
        self.preparations.finished |= {target.array.name for target in self.values.targets}
        self._passes()
        self._sums()

    # ------------------------------------------------------------------------- row values

    def _passes(self) -> None:
        """Loops for row values that depend on cotangents, and maps for sums over widths."""
        rows = (*self.frame.grid, self.frame.held)
        self._columns()
        for array, expr in self.values.prepared.values():
            self.made.workspaces.append(Workspace(array, "accumulate"))
            name = f"{self.graph.name}_{array.name}"
            over = tuple(index for index in array.indices if index in rows)
            width = next((index for index in array.indices if index not in rows), None)
            taken = self.names.taken
            self.made.kernels.append(map_of(name, over, width, array, expr, taken))
        for number, formulas in enumerate(self._row_sums(), 1):
            name = "row_sums" if number == 1 else f"row_sums_{number}"
            self.made.emit(Holder(name, self.frame, formulas=formulas), self.graph.name)
        passing = self.values.passed.reductions
        if passing.pending:
            raise refuse("two_pass: a row value that depends on a weight's finished sum")
        for level, own in enumerate(self.values.passed.levels(), 1):
            lowering = Lowering(self.frame, passing, self.preparations)
            given = [target for target in own if not used_by(passing, (target,))]
            lowering.kernels.extend(map(self._map, given))
            walked = tuple(target for target in own if target not in given)
            if walked:
                emit_kernels(lowering, f"{self.graph.name}_pass_{level}", walked)
            self._take(lowering, own)

    def _map(self, target: Target) -> Kernel:
        """What is finished once roots are at hand, without a loop."""
        rows = (*self.frame.grid, self.frame.held)
        name = f"{self.graph.name}_{target.array.name}"
        taken = self.names.taken
        return map_of(name, rows, target.width, target.array, target.expr, taken)

    def _columns(self) -> None:
        """Loops for roots of equations, and for values of keys that fold over rows."""
        lowering = Lowering(self.frame, self.values.passed.reductions, self.preparations)
        emit_columns(lowering, self.graph.name, emit_passes)
        emit_solves(lowering, self.graph.name)
        self.made.kernels.extend(lowering.kernels)
        self.made.workspaces.extend(lowering.workspaces)
        self.made.notes.extend(note for note in lowering.notes if note not in self.made.notes)

    def _row_sums(self) -> list[list[Formula]]:
        """Sums over the keys of a row, by the loop that makes them: one after those it reads."""
        loops: list[list[Formula]] = []
        for array, expr in self.values.summed.values():
            read = {node.array.name for node in postorder(expr) if node.op == "read"}
            if not loops or any(one.array.name in read for one in loops[-1]):
                loops.append([])
            loops[-1].append(Formula(array, None, expr))
        return loops

    def _take(self, lowering: Lowering, stored: tuple[Target, ...]) -> None:
        self.made.kernels.extend(lowering.kernels)
        self.made.workspaces.extend(lowering.workspaces)
        self.made.workspaces.extend(Workspace(t.array, "accumulate") for t in stored)
        names = " and ".join(target.array.name for target in stored)
        self.made.notes.append(f"A loop over the keys finishes {names} before the gradients.")

    # ------------------------------------------------------------------------------- sums

    def _sums(self) -> None:
        sums = {one.array.name: one for one in self.pair_sums.made.values()}
        self.rows_held = self._holds_rows(sums)
        if self.rows_held:
            under = with_guards(sums, (expr for _, expr in self.lowered))
            sums = {name: deposited(one) for name, one in under.items()}
        rows = Holder("rows", self.frame)
        holders: dict[str, Holder] = {}
        by_frame: dict[object, Holder] = {}
        for name, one in sums.items():
            if one.hold != "key":
                continue
            made = key_holder(one, self.roles)
            site = made.coarse[0].digest if made.coarse else b""
            key = (made.frame.grid, made.frame.held, made.frame.around, site)
            holders[name] = by_frame.setdefault(key, made)
        self._name(list(by_frame.values()))
        maps = self._direct(sums, rows, holders)
        self._place(sums, rows, holders, maps)
        for holder in (rows, *by_frame.values()):
            if holder.formulas or holder.added:
                self.made.emit(holder, self.graph.name)
        for array, expr in maps:
            whole = self._formed(read_back(expr, self.made.reads, sums))
            wide = self._width(array, sums)
            over = tuple(i for i in array.indices if i != wide)
            name = f"{self.graph.name}_{array.name}"
            self.made.kernels.append(map_of(name, over, wide, array, whole, self.names.taken))

    def _holds_rows(self, sums: dict[str, PairSum]) -> bool:
        """Whether one loop holds rows for what rows and keys get: where values run along the keys,
        or where a loop for sums over a row's keys goes before, which this one can follow."""
        able = all(can_deposit(one, self.frame) for one in sums.values())
        if self.in_order and not able:
            raise refuse("map_stage: a derivative that is the same for all rows")
        return self.in_order or (self.sweep == "one" and able and bool(self.values.summed))

    def _formed(self, expr: Expr) -> Expr:
        """The expression with the powers of a row put together in each of its sums: neither the
        power of a sink nor that of its row's total need be a number of the call."""

        def change(node: Expr) -> Expr:
            if node.op != "fold" or node.monoid != "sum" or node.kind != "real":
                return node
            condition, body = node.args
            powers = [n for n in postorder(body) if n.op in ("exp", "exp2")]
            if len(powers) < 2 or not any(n.free & set(node.bound) for n in powers):
                return node
            return node.with_args((condition, outward(scaled(body).collapsed(), self.names)))

        return rewrite(expr, change)

    @staticmethod
    def _name(holders: list[Holder]) -> None:
        taken = Names(set())
        for holder in holders:
            holder.name = taken.fresh(holder.name)

    def _direct(
        self, sums: dict[str, PairSum], rows: Holder, holders: dict[str, Holder]
    ) -> list[tuple[Array, Expr]]:
        """Gives outputs to the kernels that can finish them; the others are maps."""
        maps: list[tuple[Array, Expr]] = []
        axes = self._widths(sums)
        for array, expr in self.lowered:
            one_number = self._straight(array, expr, sums)
            if one_number is not None:
                rows.added.append(one_number)
                continue
            used = {n.array.name for n in postorder(expr) if n.op == "read"} & set(sums)
            keyed = {id(holders[name]): holders[name] for name in used if name in holders}
            one = next(iter(keyed.values())) if len(keyed) == 1 else None
            hold, holder = ("key", one) if one else ("row", rows)
            found = direct(array, expr, sums, hold, axes)
            if found is None or holder is None or (hold == "row" and self._lays_rows):
                maps.append((array, expr))
                continue
            formula, indices, width = found
            store = Array(array.name, indices, array.kind, "output", array.span)
            whole = in_kernel(formula, sums, holder)
            holder.formulas.append(Formula(store, width, whole))
        return maps

    def _straight(self, array: Array, expr: Expr, sums: dict[str, PairSum]) -> PairSum | None:
        """The number for each pair that an output is, stored where the output stands."""
        one = sums.get(expr.array.name) if expr.op == "read" else None
        if one is None or one.hold != "pair" or self._lays_rows:
            return None
        moves = {at.attr: own for own, at in zip(one.array.indices, expr.args, strict=True)}
        if set(moves) != set(array.indices):
            return None
        indices = tuple(moves[index] for index in array.indices)
        return replace(one, array=Array(array.name, indices, "real", "output", array.span))

    def _place(
        self,
        sums: dict[str, PairSum],
        rows: Holder,
        holders: dict[str, Holder],
        maps: list[tuple[Array, Expr]],
    ) -> None:
        """Gives the sums that maps read to kernels."""
        used = {n.array.name for _, e in maps for n in postorder(e) if n.op == "read"}
        for name, one in sums.items():
            if name not in used:
                continue
            keys = [h for h in holders.values() if h.frame.held == one.key]
            own = holders.get(name, rows)
            by_keys = self._lays_rows and bool(keys)
            if one.hold in ("deposit", "scatter", "pair") or (one.hold == "row" and by_keys):
                (keys[0] if by_keys else rows).added.append(one)
                continue
            own.formulas.append(Formula(one.array, one.width, sum_of(one, own)))
            self.made.reads[name] = _whole(one.array)

    def _widths(self, sums: dict[str, PairSum]) -> frozenset[Axis]:
        return frozenset(one.width.axis for one in sums.values() if one.width is not None)

    def _width(self, array: Array, sums: dict[str, PairSum]) -> Index | None:
        """The last index of an output that maps write, if it is a width."""
        last = array.indices[-1] if array.indices else None
        return last if last is not None and last.axis in self._widths(sums) else None

    # --------------------------------------------------------------------------- schedule

    def schedule(self, name: str, signature: Signature) -> Schedule:
        """The schedule of what `run` made."""
        kernels = in_order((*self.preparations.kernels, *self.made.kernels))
        lowering = Lowering(self.frame, Reductions(self.frame), self.preparations)
        lowering.workspaces.extend(self.made.workspaces)
        notes = (*self._notes(kernels), *self.made.notes)
        return finished(name, signature, lowering, kernels, notes, prepared=False)

    def _notes(self, kernels: tuple[Kernel, ...]) -> Iterator[str]:
        """What is read from the forward, what is computed again, and what that costs."""
        given = [*self.values.reads, *(t.array.name for t in self.values.saved_targets)]
        if given:
            yield f"Read from the forward: {', '.join(given)}."
        yield "Scores and weights are computed again for each pair."
        ahead = leaders(kernels) if self.sweep == "one" else {}
        for kernel in kernels:
            if isinstance(kernel, StreamKernel):
                count = sum(map(_products, kernel.loops))
                around = f" around {kernel.loops[0].around[-1]}" if kernel.loops[0].around else ""
                taken = _taken(kernel, ahead[kernel.name]) if kernel.name in ahead else ""
                yield (
                    f"{kernel.name} holds {kernel.held}{around}: "
                    f"{count} products for each pair{taken}."
                )


def _products(loop: WalkedLoop) -> int:
    """How many products along a width a pair takes part in."""
    sums: tuple[Contribution | Deposit | Scatter, ...]
    sums = (*loop.contributions, *loop.deposits, *loop.scatters)
    return len(loop.products) + sum(one.operand is not None for one in sums)


def _taken(kernel: StreamKernel, leader: StreamKernel) -> str:
    """How many products a kernel need not form that follows another one."""
    both = zip(kernel.loops, leader.loops, strict=True)
    count = sum(len(found_products(loop, led)) for loop, led in both)
    return f", {count} of them found by {leader.name}, which it follows tile by tile"


def _whole(array: Array) -> Expr:
    return read(array, map(position, array.indices))


def in_order(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
    """The kernels with each after those whose arrays it reads, else in the order given. An array
    that several write, as the ends of a bracket, is that of those before."""
    reads, writes = ([of(kernel) for kernel in kernels] for of in (arrays_read, arrays_written))
    places = range(len(kernels))
    needs: list[set[int]] = []
    for place in places:
        earlier = {n for n in range(place) if writes[n] & writes[place]}
        for name in reads[place]:
            writers = {n for n in places if name in writes[n] and n != place}
            earlier |= {n for n in writers if n < place} or writers
        needs.append(earlier)
    rest, done = list(places), list[int]()
    while rest:
        ready = next((n for n in rest if needs[n] <= set(done)), None)
        if ready is None:
            raise AssertionError("kernels that wait for each other")
        rest.remove(ready)
        done.append(ready)
    return tuple(kernels[n] for n in done)
