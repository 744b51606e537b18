"""Invariants of Graphs and Schedules, by name. A broken one is a bug of the pass that ran before.

Graph
    closed        an output is over its array's indices only; no `default`, no tile value is in it
    apart         a fold binds an index that no fold around it binds, and that is not free outside
    known         reads are of inputs, iterated arrays and states, at one place for each axis
    kinds         conditions are bools; operands have the kinds that the operation takes

Schedule
    defined       a value is named before it is used, and once
    apart         a fold stands in no other over its index
    levels        the free indices of a statement are those of its field
    stored        a workspace is written before it is read, by indices of the kernel
    carried       contributions go to carried values, with an operand where these have a width
    reference     only a kernel with an exponent has a reference, or rescaled values
    plain         operands of products are plain reads; those of contributions are, or pairwise
    measured      every length that is used can be measured on an input, or is a planner's
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.errors import InternalError
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import COMPARISON, LOGIC, Array, Expr, postorder
from attnc.graph import Graph
from attnc.schedule import Kernel, RepeatKernels, Schedule
from attnc.schedule.chunks import parts_of
from attnc.schedule.maps import MapKernel, SelectKernel, StepKernel
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
    Deposit,
    Let,
    PairStore,
    Product,
    Running,
    Scanned,
    ScannedPair,
    Scatter,
    Store,
    TileScan,
    is_pairwise,
    scan_parts,
    twins_of,
)
from attnc.schedule.streams import StreamKernel, WalkedLoop

TILE_BOUNDS = frozenset(("held_low", "held_high", "walked_low", "walked_high"))
REFERENCE = "reference"


def broken(invariant: str, what: str) -> InternalError:
    return InternalError(f"invariant `{invariant}`: {what}")


# --- Graph ----------------------------------------------------------------------------------------


def verify_graph(graph: Graph) -> None:
    """Raises InternalError for the first invariant that the graph breaks."""
    known = {a.name for loop in graph.iterations for a in loop.arrays}
    known |= {a.name for step in graph.recurrences for a in step.states}
    for output in graph.outputs:
        extra = output.expr.free - set(output.array.indices)
        if extra:
            raise broken("closed", f"{output.array.name} depends on {_names(extra)}")
    for root in graph.roots:
        _verify_scopes(root)
        for node in postorder(root):
            _verify_node(node, known)


def _verify_node(node: Expr, known: set[str]) -> None:
    if node.op in ("default", "value"):
        raise broken("closed", f"`{node.op}` in a graph")
    if node.op == "read" and node.array.role == "definition" and node.array.name not in known:
        raise broken("known", f"{node.array.name} is an equation that was not put in")
    if node.op in LOGIC and any(arg.kind != "bool" for arg in node.args):
        raise broken("kinds", f"`{node.op}` of {[arg.kind for arg in node.args]}")
    if node.op == "where" and node.args[0].kind != "bool":
        raise broken("kinds", f"`where` asks a {node.args[0].kind}")
    if node.op == "fold" and node.args[0].kind != "bool":
        raise broken("kinds", f"a fold's condition is a {node.args[0].kind}")
    if node.op in COMPARISON and len({arg.kind for arg in node.args} - {"int", "real"}) > 1:
        raise broken("kinds", f"`{node.op}` of {[arg.kind for arg in node.args]}")
    if node.op == "read" and any(arg.kind != "int" for arg in node.args):
        raise broken("kinds", f"{node.array.name} is read at a place that is no int")


def _verify_scopes(root: Expr) -> None:
    """No fold binds what is bound or free around it."""
    captured = _bound_apart(root, "a graph") & root.free
    if captured:
        raise broken("apart", f"{_names(captured)} is bound and free")


def _bound_apart(root: Expr, where: str) -> frozenset[Index]:
    """The indices that folds of an expression bind, no two of which stand in each other: within the
    inner one a value over the index would be that of the outer."""
    below: dict[bytes, frozenset[Index]] = {}
    for node in postorder(root):
        inner = frozenset().union(*(below[arg.digest] for arg in node.args[:2]))
        rest = frozenset().union(*(below[arg.digest] for arg in node.args[2:]))
        again = inner & set(node.bound)
        if again:
            what = f"{_names(again)} is bound twice, one fold within the other"
            raise broken("apart", f"{where}: {what}")
        below[node.digest] = inner | rest | frozenset(node.bound)
    return below[root.digest]


# --- Schedule -------------------------------------------------------------------------------------


def verify_schedule(schedule: Schedule) -> None:
    """Raises InternalError for the first invariant that the schedule breaks."""
    arrays = {argument.array.name for argument in schedule.signature.inputs}
    spaces = {space.array.name for space in schedule.workspaces}
    outputs = {argument.array.name for argument in schedule.signature.outputs}
    measured = {argument.axis for argument in schedule.signature.lengths}
    verifier = _Verifier(arrays, spaces, outputs, measured)
    for kernel in schedule.kernels:
        verifier.kernel(kernel)
    missing = outputs - verifier.written
    if missing:
        raise broken("stored", f"nothing writes {', '.join(sorted(missing))}")


@dataclass
class _Verifier:
    arrays: set[str]
    spaces: set[str]
    outputs: set[str]
    measured: set[Axis]
    written: set[str] = field(default_factory=set)

    def kernel(self, kernel: Kernel) -> None:
        if isinstance(kernel, StreamKernel):
            self.stream(kernel)
        elif isinstance(kernel, MapKernel):
            self.map(kernel)
        elif isinstance(kernel, RepeatKernels):
            self.expr(kernel.count, "count", {}, frozenset())
            for inner in kernel.kernels:
                self.kernel(inner)
        elif isinstance(kernel, ScanKernel):
            self.scan(kernel)
        elif isinstance(kernel, ReverseScanKernel):
            self.reverse_scan(kernel)
        elif isinstance(kernel, SelectKernel):
            self.select(kernel)
        else:
            self.step(kernel)

    # ------------------------------------------------------------------------- expressions

    def expr(self, expr: Expr, where: str, values: dict[str, Expr], free: frozenset[Index]) -> None:
        """One expression: over `free` only, of values and arrays that are there."""
        extra = expr.free - free
        if extra:
            raise broken("levels", f"{where} depends on {_names(extra)}")
        _bound_apart(expr, where)
        for node in postorder(expr):
            if node.op == "value" and str(node.attr) not in values:
                raise broken("defined", f"{where} uses {node.attr}, which is not there yet")
            if node.op == "read" and node.array.name not in self.arrays | self.written:
                raise broken("stored", f"{where} reads {node.array.name}, which is not there yet")
            if node.op == "length" and isinstance(node.attr, Axis):
                self._measured(node.attr, where)

    def _measured(self, axis: Axis, where: str) -> None:
        if axis.form in ("measured", "coarse") and axis not in self.measured:
            raise broken("measured", f"{where} asks for the length of {axis.name}")

    def lets(
        self,
        lets: Iterable[Let | Running],
        where: str,
        values: dict[str, Expr],
        free: frozenset[Index],
    ) -> None:
        for let in lets:
            self.expr(let.expr, f"{where} `{let.name}`", values, free)
            self.name(let.name, let.expr, values)

    def name(self, name: str, expr: Expr, values: dict[str, Expr]) -> None:
        if name in values or name == REFERENCE:
            raise broken("defined", f"{name} is defined twice")
        values[name] = expr

    def store(self, store: Store, values: dict[str, Expr], over: tuple[Index, ...]) -> None:
        name = store.array.name
        widths = (store.width,) if store.width else ()
        if set(store.array.indices) - {*over, *widths}:
            raise broken("stored", f"{name} is not over indices of its kernel")
        if name not in self.outputs | self.spaces:
            raise broken("stored", f"{name} is neither an output nor a workspace")
        self.expr(store.expr, f"store {name}", values, frozenset((*over, *widths)))

    # ------------------------------------------------------------------------------ kernels

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
        for store in loop.pair_stores:
            self.expr(store.term, f"{where}: pairs of {store.array.name}", lifted, pair)
            self.written.add(store.array.name)
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

    def array(self, name: str, where: str) -> None:
        if name not in self.arrays | self.written:
            raise broken("stored", f"{where} reads {name}, which is not there yet")

    def select(self, kernel: SelectKernel) -> None:
        over = frozenset(kernel.over)
        for expr in (kernel.condition, kernel.key):
            self.expr(expr, kernel.name, {}, over | {kernel.candidate})
        self.expr(kernel.count, kernel.name, {}, over)
        self.written.add(kernel.array.name)

    def operand(
        self, expr: Expr, width: Index, along: set[Index], where: str, grid: frozenset[Index]
    ) -> None:
        if expr.op != "read" or width not in expr.free:
            raise broken("plain", f"{where}: an operand is no read along {width}")
        straight = {place.attr for place in expr.args if place.op == "index"}
        for place in expr.args:
            if place.free - grid and place.attr not in straight:
                raise broken("plain", f"{where}: {expr.array.name} is not read straight")
        self.expr(expr, f"{where}: operand", {}, grid | {width} | frozenset(along))

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


def _names(indices: Iterable[Index]) -> str:
    return ", ".join(sorted(map(str, indices)))
