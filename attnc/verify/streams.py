"""Invariants of kernels that walk keys, of maps and of selections."""

from __future__ import annotations

from attnc.expressions.tree import Expr
from attnc.schedule.maps import MapKernel, SelectKernel
from attnc.schedule.statements import (
    Deposit,
    PairStore,
    Scatter,
    is_pairwise,
)
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.verify.terms import REFERENCE, TILE_BOUNDS, Terms, broken


class Streams(Terms):
    """Verifies them in the order of a schedule."""

    def map(self, kernel: MapKernel) -> None:
        values: dict[str, Expr] = {}
        self.lets(kernel.values, f"{kernel.name}: value", values, frozenset(kernel.over))
        for store in kernel.stores:
            self.store(store, values, kernel.over)
        self.written |= {store.array.name for store in kernel.stores}

    def stream(self, kernel: StreamKernel) -> None:
        values: dict[str, Expr] = {}
        grid = frozenset(kernel.grid)
        rows = grid | {kernel.held}
        if kernel.split is not None and kernel.split not in grid:
            raise broken("levels", f"{kernel.name}: the split is no grid index")
        self.lets(kernel.grid_values, f"{kernel.name}: grid value", values, grid)
        self.lets(kernel.held_values, f"{kernel.name}: held value", values, rows)
        carried = {one.name: one for one in kernel.carried}
        tracked = any(loop.exponent is not None for loop in kernel.loops)
        if not tracked and any(one.rescaled for one in kernel.carried):
            raise broken("reference", f"{kernel.name} rescales, and has no exponent")
        for loop in kernel.loops:
            self.loop(kernel, loop, dict(values))
        for one in kernel.carried:
            self.name(one.name, Expr("number", (), 0.0), values)
        if tracked:
            values[REFERENCE] = Expr("number", (), 0.0)
        self.lets(kernel.finish, f"{kernel.name}: finish", values, rows)
        for store in kernel.stores:
            self.store(store, values, (*kernel.grid, kernel.held))
        self.written |= {store.array.name for store in kernel.stores}
        assert len(carried) == len(kernel.carried)

    def loop(self, kernel: StreamKernel, loop: WalkedLoop, values: dict[str, Expr]) -> None:
        where = f"{kernel.name}: loop over {loop.walked}"
        grid = frozenset((*kernel.grid, *loop.around))
        walked = grid | {loop.walked}
        pair = walked | {kernel.held}
        bounds = {name: Expr("number", (), 0) for name in TILE_BOUNDS}
        for summary in loop.region.summaries:
            self.expr(summary.expr, f"{where}: summary", values, grid | {summary.index})
            bounds |= {f"{summary.name}_{end}": summary.expr for end in ("low", "high")}
        segments = [e for s in loop.region.segments for e in (s.start, s.full_start, s.full_stop)]
        for region in (loop.region.possible, loop.region.certain, *segments):
            self.expr(region, f"{where}: region", {**values, **bounds}, grid)
        if loop.chosen is not None:
            self.array(loop.chosen.chosen.name, where)
        self.lets(loop.walked_values, f"{where}: walked value", values, walked)
        if loop.visible is not None:
            self.expr(loop.visible, f"{where}: visible", values, pair)
        for product in loop.products:
            self.operand(product.left, product.width, {kernel.held}, where, grid)
            self.operand(product.right, product.width, {loop.walked}, where, grid)
            self.name(product.name, product.left, values)
        self.lets(loop.pair_values, f"{where}: pair value", values, pair)
        for expr in (loop.hidden, loop.exponent):
            if expr is not None:
                self.expr(expr, where, values, pair)
        lifted = {**values, **({REFERENCE: loop.exponent} if loop.exponent else {})}
        self.lets(loop.lifted, f"{where}: lifted", lifted, pair)
        sums: tuple[Deposit | Scatter, ...] = (*loop.deposits, *loop.scatters)
        for one in sums:
            self.added(kernel, loop, one, lifted)
        for store in loop.pair_stores:
            self.pair_store(kernel, loop, store, lifted)
        for contribution in loop.contributions:
            found = [one for one in kernel.carried if one.name == contribution.carried]
            if len(found) != 1:
                raise broken("carried", f"{where}: {contribution.carried} is not carried")
            self.expr(contribution.term, f"{where}: term", lifted, pair)
            if (found[0].width is None) != (contribution.operand is None):
                raise broken("carried", f"{where}: {contribution.carried} and its operand")
            operand, width = contribution.operand, found[0].width
            if operand is None or width is None:
                continue
            if is_pairwise(operand, loop.walked, kernel.held):
                self.expr(operand, f"{where}: operand", {}, pair | {width})
            else:
                self.operand(operand, width, {loop.walked}, where, grid)

    def pair_store(
        self, kernel: StreamKernel, loop: WalkedLoop, one: PairStore, values: dict[str, Expr]
    ) -> None:
        """A number for each pair."""
        name, where = one.array.name, f"{kernel.name}, loop over {loop.walked}"
        grid = frozenset((*kernel.grid, *loop.around))
        if name not in self.spaces | self.outputs:
            raise broken("stored", f"{where}: {name} is no workspace or output")
        if not {kernel.held, loop.walked} <= set(one.array.indices):
            raise broken("stored", f"{where}: {name} is not over pairs")
        if set(one.array.indices) - grid - {kernel.held, loop.walked}:
            raise broken("stored", f"{where}: {name} is not over indices of its kernel")
        self.expr(one.term, f"{where}: term of {name}", values, grid | {kernel.held, loop.walked})
        self.written.add(name)

    def added(
        self,
        kernel: StreamKernel,
        loop: WalkedLoop,
        one: Deposit | Scatter,
        values: dict[str, Expr],
    ) -> None:
        """What a pair adds to an array in memory."""
        name, where = one.array.name, f"{kernel.name}, loop over {loop.walked}"
        grid = frozenset((*kernel.grid, *loop.around))
        pair = grid | {kernel.held, loop.walked}
        if name not in self.spaces | self.outputs:
            raise broken("stored", f"{where}: {name} is no workspace or output")
        if kernel.split is not None and one.array.indices[0] != kernel.split:
            raise broken("stored", f"{where}: {name} has no slice for each share")
        if isinstance(one, Scatter):
            if one.at.kind != "int":
                raise broken("kinds", f"{where}: {name} is written at a place that is no int")
            self.expr(one.at, f"{where}: place in {name}", values, pair)
        elif loop.walked not in one.array.indices:
            raise broken("stored", f"{where}: {name} is not over {loop.walked}")
        self.expr(one.term, f"{where}: term of {name}", values, pair)
        if (one.width is None) != (one.operand is None):
            raise broken("stored", f"{where}: {name} and its operand")
        if one.operand is not None and one.width is not None:
            along = {kernel.held} if isinstance(one, Deposit) else {kernel.held, loop.walked}
            deposited = isinstance(one, Deposit)
            if deposited and is_pairwise(one.operand, kernel.held, loop.walked):
                self.expr(one.operand, f"{where}: operand", {}, pair | {one.width})
            else:
                self.operand(one.operand, one.width, along, where, grid)
        self.written.add(name)

    def select(self, kernel: SelectKernel) -> None:
        over = frozenset(kernel.over)
        for expr in (kernel.condition, kernel.key):
            self.expr(expr, kernel.name, {}, over | {kernel.candidate})
        self.expr(kernel.count, kernel.name, {}, over)
        self.written.add(kernel.array.name)
