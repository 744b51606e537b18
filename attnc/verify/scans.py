"""Invariants of scans: row by row, in chunks, in tiles and in shares of rows, forwards and back."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr
from attnc.schedule.chunks import parts_of
from attnc.schedule.maps import StepKernel
from attnc.schedule.scans import (
    ReverseChunks,
    ReverseScanKernel,
    ReverseTiles,
    RowWrite,
    ScanKernel,
    Shares,
)
from attnc.schedule.statements import (
    Contraction,
    Decays,
    Let,
    Product,
    Scanned,
    ScannedPair,
    TileScan,
    scan_parts,
    twins_of,
)
from attnc.verify.terms import Terms, broken


class Scans(Terms):
    """Verifies them in the order of a schedule."""

    def scan(self, kernel: ScanKernel) -> None:
        values: dict[str, Expr] = {}
        grid, loop = frozenset(kernel.grid), kernel.loop
        self.arrays |= {state.name for state in loop.states}
        inner = {loop.inner} if loop.inner is not None else set()
        pair = grid | {loop.time} | inner
        widths = frozenset(i for state in loop.states for i in state.indices)
        lets = [one for one in (*loop.inside, *loop.after) if isinstance(one, Let)]
        widths |= {i for let in (*kernel.grid_values, *lets) for i in let.expr.free} - pair
        self.lets(kernel.grid_values, f"{kernel.name}: grid value", values, grid | widths)
        for state, first in zip(loop.states, loop.initial, strict=True):
            free = grid | frozenset(state.indices)
            self.expr(first, f"{kernel.name}: first {state.name}", values, free)
        for statement in loop.inside:
            if isinstance(statement, Let):
                self.lets((statement,), f"{kernel.name}: inside", values, pair | widths)
                continue
            if isinstance(statement, Contraction):
                for part in (statement.left, statement.right, statement.log):
                    if part is not None:
                        where = f"{kernel.name}: {statement.name}"
                        self.expr(part, where, values, pair | widths | {statement.along})
                self.name(statement.name, statement.right, values)
                continue
            if isinstance(statement, Decays):
                self.expr(statement.log, f"{kernel.name}: {statement.name}", values, pair)
                self.name(statement.name, statement.log, values)
                continue
            if isinstance(statement, (Scanned, ScannedPair)):
                self.scanned(statement, kernel.name, values, pair | widths)
                continue
            first = statement.left if isinstance(statement, Product) else statement.matrix
            self.expr(first, f"{kernel.name}: inside", values, pair | widths | {statement.width})
            self.expr(statement.right, kernel.name, values, pair | widths | {statement.width})
            self.name(statement.name, statement.right, values)
        for state, after in zip(loop.states, loop.advance, strict=True):
            free = frozenset(state.indices) | grid
            free |= pair if loop.inner is None else frozenset()
            self.expr(after, f"{kernel.name}: {state.name} after a chunk", values, free)
        if kernel.shares is not None:
            self.shares(kernel.shares, kernel, grid)
        self.lets(loop.after, f"{kernel.name}: after", values, pair | widths)
        for store in kernel.stores:
            self.store(store, values, (*kernel.grid, loop.time))
        for final in kernel.finals:
            for place in final.at:
                free = grid | frozenset(final.state.indices)
                self.expr(place, f"{kernel.name}: last {final.state.name}", values, free)
        self.written |= {store.array.name for store in kernel.stores}
        self.written |= {final.array.name for final in kernel.finals}
        self.written |= {one.array.name for one in kernel.checkpoints}
        for other in (kernel.chunked, kernel.tiled):
            if other is not None:
                self.scan(other)

    def scanned(
        self, one: TileScan, name: str, values: dict[str, Expr], free: frozenset[Index]
    ) -> None:
        for part in scan_parts(one):
            self.expr(part, f"{name}: a scan", values, free)
        self.arrays |= {array.name for array in twins_of(one)}

    def shares(self, shares: Shares, kernel: ScanKernel, grid: frozenset[Index]) -> None:
        """The loop of a share, which has values of its own, and what its end does to the states."""
        loop, where, values = shares.loop, f"{kernel.name}: a share", dict[str, Expr]()
        lets = [*shares.values, *(one for one in loop.inside if isinstance(one, Let))]
        widths = frozenset(index for let in lets for index in let.expr.free)
        self.arrays |= {state.name for state in loop.states}
        self.lets(lets, where, values, grid | widths | {loop.time})
        self._states(kernel.name, loop.states, loop.advance, values, grid | {loop.time})
        for state, expr in zip(kernel.loop.states, shares.joined, strict=True):
            self.expr(expr, where, {}, grid | frozenset(state.indices))

    def reverse_scan(self, kernel: ReverseScanKernel) -> None:
        """Values in their order; each carried value over its own indices."""
        replay, name = kernel.replay, kernel.name
        self.arrays |= {s.name for s in (*replay.states, *kernel.twins, *kernel.carried)}
        lets = [*kernel.grid_values, *kernel.inside, *kernel.given, *kernel.last]
        lets += [one for one in replay.inside if isinstance(one, Let)]
        row = frozenset((*kernel.grid, replay.time))
        widths = frozenset(i for s in (*replay.states, *kernel.carried) for i in s.indices)
        widths |= {index for let in lets for index in let.expr.free} - row
        fixed: dict[str, Expr] = {}
        self.lets(kernel.grid_values, f"{name}: grid value", fixed, row | widths)
        for state, first in zip(kernel.carried, kernel.initial, strict=True):
            free = frozenset((*kernel.grid, *state.indices))
            self.expr(first, f"{name}: last {state.name}", fixed, free)
        values = dict(fixed)
        for let in replay.inside:
            assert isinstance(let, Let)
            self.lets((let,), f"{name}: replayed", values, row | widths)
        self._states(name, replay.states, replay.advance, values, row)
        values = dict(fixed)
        self.lets(kernel.inside, f"{name}: inside", values, row | widths)
        self._states(name, kernel.carried, kernel.absorbed, values, row)
        self.lets(kernel.given, f"{name}: given", values, row | widths)
        self._row_writes(name, kernel.writes, values, row)
        self._states(name, kernel.carried, kernel.advance, values, row)
        values = dict(fixed)
        self.lets(kernel.last, f"{name}: at the end", values, row | widths)
        self._states(name, kernel.carried, kernel.ending, values, row)
        self._row_writes(name, kernel.ended, values, row)
        if kernel.tiled is not None:
            self.reverse_tiles(kernel.tiled, name, row)
        self.written |= {final.array.name for final in kernel.finals}
        if kernel.chunked is not None:
            self.reverse_chunks(kernel, kernel.chunked)

    def reverse_chunks(self, kernel: ReverseScanKernel, chunk: ReverseChunks) -> None:
        """Statements in their order, those of each loop by themselves."""
        name, local = f"{kernel.name} in chunks", {array.name for array in chunk.arrays}
        fixed: dict[str, Expr] = {}
        for let in (*kernel.grid_values, *chunk.values):
            self.lets((let,), f"{name}: value", fixed, let.expr.free - {kernel.replay.time})
        for statements in (chunk.forward, chunk.inside):
            values = dict(fixed)
            self.arrays -= local
            for one in statements:
                for part in parts_of(one):
                    self.expr(part, f"{name}: {one.name}", values, part.free)
                self.name(one.name, parts_of(one)[0], values)
                self.arrays |= {one.name} & local
            free = frozenset((*kernel.grid, kernel.replay.time))
            if statements is chunk.forward:
                self._states(name, kernel.replay.states, chunk.onward, values, free)
                continue
            self._row_writes(name, chunk.writes, values, free)
            self._states(name, kernel.carried, chunk.advance, values, free)

    def reverse_tiles(self, tiles: ReverseTiles, name: str, row: frozenset[Index]) -> None:
        """Statements in their order, with values of their own."""
        values: dict[str, Expr] = {}
        lets = (*tiles.values, *(one for one in tiles.inside if isinstance(one, Let)))
        widths = frozenset(index for let in lets for index in let.expr.free)
        self.lets(tiles.values, f"{name}: tiles", values, row | widths)
        for one in tiles.inside:
            if isinstance(one, Let):
                self.lets((one,), f"{name}: tiles", values, row | widths)
            else:
                indices = (index for array in twins_of(one) for index in array.indices)
                self.scanned(one, name, values, row | frozenset(indices))
        self._row_writes(name, tiles.writes, values, row)

    def _states(
        self,
        name: str,
        states: Iterable[Array],
        exprs: Iterable[Expr],
        values: dict[str, Expr],
        row: frozenset[Index],
    ) -> None:
        for state, expr in zip(states, exprs, strict=True):
            self.expr(expr, f"{name}: {state.name}", values, row | frozenset(state.indices))

    def _row_writes(
        self, name: str, writes: Iterable[RowWrite], values: dict[str, Expr], row: frozenset[Index]
    ) -> None:
        for write in writes:
            free = row | frozenset(write.over)
            for expr in (*write.at, write.term, *((write.condition,) if write.condition else ())):
                self.expr(expr, f"{name}: {write.array.name}", values, free)
            if write.adds and write.array.name not in self.spaces:
                raise broken("stored", f"{write.array.name} is added to and no workspace")
            self.written.add(write.array.name)

    def step(self, kernel: StepKernel) -> None:
        values: dict[str, Expr] = {}
        grid = frozenset(kernel.grid)
        widths = frozenset(i for state in kernel.states for i in state.indices)
        self.arrays |= {state.name for state in kernel.states}
        self.lets(kernel.values, f"{kernel.name}: value", values, grid | widths)
        for state, after in zip(kernel.states, kernel.next, strict=True):
            self.expr(after, f"{kernel.name}: next {state.name}", values, grid | widths)
        for store in kernel.stores:
            self.store(store, values, (*kernel.grid, *sorted(widths, key=str)))
        self.written |= {store.array.name for store in kernel.stores}
