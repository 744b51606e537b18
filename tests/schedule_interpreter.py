"""A Schedule run by NumPy, tile by tile: what its types mean, for tests of the passes.

Everything is float64 and as a printer would do it: held tiles, walked tiles in order, a running
reference that is finite in the loop, carried values rescaled when it moves. Reads are clamped. The
regions are held to what they say: a tile that is not possible has no visible pair, one that is
certain has no masked one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from chunk_interpreter import run_chunks
from scan_interpreter import run_scan

from attnc.expressions import evaluate as evaluation
from attnc.expressions.evaluate import Environment
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, postorder, rewrite, value
from attnc.schedule import Kernel, RepeatKernels, Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.regions import Segment
from attnc.schedule.scans import ScanKernel
from attnc.schedule.statements import Deposit, Let, PairStore, Running, is_pairwise
from attnc.schedule.streams import StreamKernel, WalkedLoop

Tensor = Any
IDENTITY = {"sum": 0.0, "prod": 1.0, "max": -np.inf, "min": np.inf}
JOINED = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


@dataclass
class Interpreter:
    """Runs the kernels of a Schedule on arrays by name; `outputs` holds what they stored.

    splits     the number of shares where a kernel splits its keys
    chunk      rows of a chunk, where a scan is to run in chunks
    """

    schedule: Schedule
    arrays: dict[str, Tensor]
    params: Mapping[str, Any] = field(default_factory=dict)
    starts: Mapping[Axis, int] = field(default_factory=dict)
    held_tile: int = 5
    walked_tile: int = 3
    splits: int = 1
    chunk: int = 0
    key_length: int | None = None
    lengths: dict[Axis, int] = field(default_factory=dict)
    visited: int = 0

    def run(self) -> dict[str, Tensor]:
        """Every array that was stored, workspaces among them."""
        for argument in self.schedule.signature.lengths:
            sizes = {
                self.arrays[name].shape[place]
                for name, place in argument.sites
                if name in self.arrays
            }
            if sizes:
                (self.lengths[argument.axis],) = sizes
        self.arrays = {n: np.asarray(a) for n, a in self.arrays.items()}
        for kernel in self.schedule.kernels:
            if isinstance(kernel, StreamKernel) and kernel.split is not None:
                self.lengths[kernel.split.axis] = self.splits
        for kernel in self.schedule.kernels:
            self._kernel(kernel)
        return self.arrays

    def _kernel(self, kernel: Kernel) -> None:
        if isinstance(kernel, StreamKernel):
            self._stream(kernel)
        elif isinstance(kernel, MapKernel):
            self._map(kernel)
        elif isinstance(kernel, ScanKernel):
            run_chunks(self, kernel) if self.chunk else run_scan(self, kernel)
        elif isinstance(kernel, RepeatKernels):
            for _ in range(int(evaluation.evaluate(kernel.count, self._environment({}, {})))):
                for inner in kernel.kernels:
                    self._kernel(inner)
        else:
            raise NotImplementedError(type(kernel).__name__)

    # ------------------------------------------------------------------------- environments

    def _environment(self, indices: dict[Index, Tensor], values: dict[str, Tensor]) -> Environment:
        return Environment(
            indices=indices,
            params=self.params,
            lengths=self.lengths,
            starts=self.starts,
            arrays=self.arrays,
            values=values,
            clamped=True,
        )

    def size(self, index: Index) -> int:
        return self._environment({}, {}).length(index.axis)

    def first(self, index: Index) -> int:
        return self._environment({}, {}).start(index.axis)

    def _spread(self, order: list[Index], ranges: dict[Index, Tensor]) -> dict[Index, Tensor]:
        """Positions, each along its own dimension of `order`."""
        rank = len(order)
        return {
            index: positions.reshape([-1 if at == place else 1 for at in range(rank)])
            for place, index in enumerate(order)
            if (positions := ranges.get(index)) is not None
        }

    def _all(self, index: Index) -> Tensor:
        return np.arange(self.size(index)) + self.first(index)

    def _store(
        self, array: Array, where: dict[Index, Tensor], order: list[Index], v: Tensor
    ) -> None:
        if array.name not in self.arrays:
            shape = [self.size(index) for index in array.indices]
            self.arrays[array.name] = np.full(shape, np.nan)
        rows = [where[index].ravel() - self.first(index) for index in array.indices]
        shape = [len(where[index].ravel()) if index in where else 1 for index in order]
        full = np.broadcast_to(v, shape)
        keep = [order.index(index) for index in array.indices]
        drop = tuple(place for place in range(len(order)) if place not in keep)
        lengths = [len(row) for row in rows]
        if full.size == 0:
            return
        spread = np.transpose(full, (*keep, *drop)).reshape(*lengths, -1)
        moved = spread[..., 0]
        same = np.isclose(spread, moved[..., None], equal_nan=True)
        assert np.all(same), f"{array.name} is over more indices than its own"
        self.arrays[array.name][np.ix_(*rows)] = moved

    # ------------------------------------------------------------------------------- maps

    def _map(self, kernel: MapKernel) -> None:
        for store in kernel.stores:
            order = [*kernel.over, *([store.width] if store.width else [])]
            ranges = {index: self._all(index) for index in order}
            where = self._spread(order, ranges)
            values: dict[str, Tensor] = {}
            self._lets(kernel.values, where, values)
            self._store(store.array, where, order, self._value(store.expr, where, values))

    def _lets(
        self, lets: Iterable[Let], where: dict[Index, Tensor], values: dict[str, Tensor]
    ) -> None:
        for let in lets:
            assert let.name not in values, f"{let.name} is defined twice"
            values[let.name] = self._value(let.expr, where, values)

    def _value(self, expr: Expr, where: dict[Index, Tensor], values: dict[str, Tensor]) -> Tensor:
        rank = next((len(index.shape) for index in where.values()), 0)
        found = evaluation.evaluate(expr, self._environment(where, values))
        return found.reshape((1,) * (rank - found.ndim) + found.shape)

    # ----------------------------------------------------------------------------- streams

    def _stream(self, kernel: StreamKernel) -> None:
        rows = self._all(kernel.held)
        added = [one.array for loop in kernel.loops for one in _into_memory(loop)]
        for array in added:
            shape = [self.size(index) for index in array.indices]
            self.arrays[array.name] = np.zeros(shape)
        for one in (pair for loop in kernel.loops for pair in loop.pair_stores):
            self.arrays[one.array.name][...] = one.otherwise
        for store in kernel.stores:
            shape = [self.size(index) for index in store.array.indices]
            self.arrays.setdefault(store.array.name, np.full(shape, np.nan))
        begins = range(0, len(rows), self.held_tile)
        shares = range(self.splits) if kernel.split else [0]
        each = -(-len(begins) // self.splits)
        for number, begin in enumerate(begins):
            held = rows[begin : begin + self.held_tile]
            own = [number // each] if added else shares  # in order: a share has its own slice
            for share in own:
                _StreamRun(self, kernel, held, share).run()


@dataclass
class _StreamRun:
    """One held tile of a stream kernel, over the whole grid at once."""

    interpreter: Interpreter
    kernel: StreamKernel
    held: Tensor
    share: int
    values: dict[str, Tensor] = field(default_factory=dict)
    carried: dict[str, Tensor] = field(default_factory=dict)
    around: dict[Index, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kernel, run = self.kernel, self.interpreter
        self.widths = list(
            dict.fromkeys(
                index
                for index in (
                    *(c.width for c in kernel.carried),
                    *(s.width for s in kernel.stores),
                    *(one.width for loop in kernel.loops for one in loop.deposits),
                    *(one.width for loop in kernel.loops for one in loop.scatters),
                )
                if index is not None
            )
        )
        self.grid = [index for index in kernel.grid if index != kernel.split]
        self.lead = [*self.grid, *([kernel.split] if kernel.split else []), kernel.held]
        self.grid_ranges = {index: run._all(index) for index in self.grid}
        if kernel.split:
            self.grid_ranges[kernel.split] = np.array([self.share])
        self.tracked = any(loop.exponent is not None for loop in kernel.loops)

    def order(self, walked: Index) -> list[Index]:
        return [*self.lead, walked, *self.widths]

    def spread(self, order: list[Index], extra: dict[Index, Tensor]) -> dict[Index, Tensor]:
        ranges = {**self.grid_ranges, self.kernel.held: self.held, **extra}
        fixed = {index: np.full((1,) * len(order), at) for index, at in self.around.items()}
        return {**self.interpreter._spread(order, ranges), **fixed}

    def run(self) -> None:
        kernel, run = self.kernel, self.interpreter
        first = kernel.loops[0].walked
        order = self.order(first)
        width_ranges = {w: run._all(w) for w in self.widths}
        where = self.spread(order, {first: np.zeros(1, int), **width_ranges})
        shape = {index: len(where[index].ravel()) for index in order}
        for carried in kernel.carried:
            dims = [shape[i] if i in self.lead or i == carried.width else 1 for i in order]
            self.carried[carried.name] = np.full(dims, IDENTITY[carried.monoid])
        rows = [shape[i] if i in self.lead else 1 for i in order]
        self.reference = np.full(rows, -np.inf)
        row_where = {k: v for k, v in where.items() if k in self.lead}
        run._lets(kernel.grid_values, row_where, self.values)
        run._lets(kernel.held_values, row_where, self.values)
        for loop in kernel.loops:
            self.loop(loop)
        self.values.update(self.carried)
        if self.tracked:
            self.values["reference"] = self.reference
        for let in kernel.finish:
            widths = {w: where[w] for w in self.widths}
            assert let.name not in self.values, let.name
            self.values[let.name] = self.finish(let.expr, {**row_where, **widths})
        for store in kernel.stores:
            kept = {**row_where, **({store.width: where[store.width]} if store.width else {})}
            final = self.finish(store.expr, kept)
            run._store(
                store.array,
                kept,
                [i for i in order if i in kept or i == first or i in self.widths],
                final,
            )

    def finish(self, expr: Expr, where: dict[Index, Tensor]) -> Tensor:
        """A value after the loops. Folds over the width of a carried tile sum its dimension."""
        lowered, values = expr, dict(self.values)
        rank = len(self.order(self.kernel.loops[0].walked))
        for node in _width_folds(expr, self.widths):
            condition, body = node.args
            inner = self.finish(body, where)
            test = self.finish(condition, where).astype(bool)
            place = self.order(self.kernel.loops[0].walked).index(node.bound[0])
            combine = {"sum": np.add, "max": np.maximum, "min": np.minimum}[node.monoid]
            masked = np.where(test, inner, IDENTITY[node.monoid])
            size = [1] * rank
            size[place] = where[node.bound[0]].size
            masked = np.broadcast_to(masked, np.broadcast_shapes(masked.shape, tuple(size)))
            name = f"fold {len(values)}"
            values[name] = combine.reduce(masked, axis=place, keepdims=True)
            lowered = _replace(lowered, node, name)
        found = evaluation.evaluate(lowered, self.interpreter._environment(where, values))
        return found.reshape((1,) * (rank - found.ndim) + found.shape)

    # ---------------------------------------------------------------------------- a loop

    def loop(self, loop: WalkedLoop) -> None:
        run, kernel = self.interpreter, self.kernel
        positions = run._all(loop.walked)
        if loop.walked.axis.shifted == "key_offset" and run.key_length is not None:
            positions = positions[: run.key_length]
        tiles = range(0, len(positions), run.walked_tile)
        if kernel.split and not any(_into_memory(one) for one in kernel.loops):
            each = -(-len(tiles) // run.splits)
            tiles = tiles[self.share * each : (self.share + 1) * each]
        rounds = [run._all(index) for index in loop.around]
        for fixed in itertools.product(*rounds):
            self.around = dict(zip(loop.around, map(int, fixed), strict=True))
            self.along: dict[str, Tensor] = {}
            for begin in reversed(tiles) if loop.backward else tiles:
                self.tile(loop, positions[begin : begin + run.walked_tile])
        self.around = {}

    def tile(self, loop: WalkedLoop, walked: Tensor) -> None:
        run = self.interpreter
        order = self.order(loop.walked)
        widths = {w: run._all(w) for w in self.widths}
        where = self.spread(order, {loop.walked: walked, **widths})
        pair = {k: v for k, v in where.items() if k not in self.widths}
        values = dict(self.values)
        run._lets(
            loop.walked_values, {k: v for k, v in pair.items() if k != self.kernel.held}, values
        )
        for product in loop.products:
            values[product.name] = self.product(product, pair, values)
        shape = [len(pair[i].ravel()) if i in pair else 1 for i in order]
        visible = np.ones(shape, bool)
        if loop.visible is not None:
            visible = np.broadcast_to(run._value(loop.visible, pair, values), shape).astype(bool)
        if not self.allowed(loop, walked, visible):
            return
        run.visited += 1
        late = _late(loop)
        run._lets([one for one in loop.pair_values if one.name not in late], pair, values)
        if loop.hidden is not None:
            visible = visible & ~run._value(loop.hidden, pair, values).astype(bool)
        for one in (one for one in loop.pair_values if one.name in late):
            if isinstance(one, Running):
                values[one.name] = self.before(one, loop, pair, values, visible)
            else:
                run._lets([one], pair, values)
        if loop.exponent is not None:
            self.move_reference(loop, pair, values, visible, order)
        values["reference"] = np.where(np.isneginf(self.reference), 0.0, self.reference)
        run._lets(loop.lifted, pair, values)
        for contribution in loop.contributions:
            self.add(contribution, loop, where, values, visible)
        for one in _into_memory(loop):
            self.put(one, loop, where, values, visible)

    def before(
        self, running: Running, loop: WalkedLoop, pair: Any, values: Any, visible: Tensor
    ) -> Tensor:
        """The value as each key of the tile finds it, in the order of the walk."""
        assert not running.ahead, "what is ahead takes two walks"
        unit, joined = IDENTITY[running.monoid], JOINED[running.monoid]
        term = np.where(visible, self.interpreter._value(running.expr, pair, values), unit)
        place = self.order(loop.walked).index(loop.walked)
        along = np.moveaxis(np.flip(term, place) if loop.backward else term, place, 0)
        first = self.along.get(running.name, np.full(along.shape[1:], unit))
        after = joined.accumulate(np.concatenate([first[None], along]), axis=0)
        self.along[running.name] = after[-1]
        found = np.moveaxis(after[1:] if running.inclusive else after[:-1], 0, place)
        return np.flip(found, place) if loop.backward else found

    def product(self, product: Any, pair: dict[Index, Tensor], values: Any) -> Tensor:
        size = self.interpreter.size(product.width)
        total: Tensor = 0.0
        for place in range(size):
            at = {
                **pair,
                product.width: np.full((1,) * len(next(iter(pair.values())).shape), place),
            }
            a = self.interpreter._value(product.left, at, values)
            b = self.interpreter._value(product.right, at, values)
            total = total + a * b
        shape = [1] * len(next(iter(pair.values())).shape)
        return np.broadcast_to(total, np.broadcast_shapes(np.shape(total), tuple(shape)))

    def move_reference(
        self, loop: WalkedLoop, pair: Any, values: Any, visible: Tensor, order: list[Index]
    ) -> None:
        assert loop.exponent is not None
        exponent = self.interpreter._value(loop.exponent, pair, values)
        place = order.index(loop.walked)
        tops = np.where(visible, exponent, -np.inf)
        tops = np.where(np.isnan(tops), -np.inf, tops).max(axis=place, keepdims=True)
        moved = np.maximum(self.reference, tops)
        old = np.where(np.isneginf(self.reference), 0.0, self.reference)
        new = np.where(np.isneginf(moved), 0.0, moved)
        with np.errstate(all="ignore"):
            factor = np.exp2(np.where(np.isneginf(self.reference), -np.inf, old - new))
        for carried in self.kernel.carried:
            if carried.rescaled:
                kept = self.carried[carried.name]
                self.carried[carried.name] = np.where(kept == 0, 0.0, kept * factor)
        self.reference = moved

    def add(
        self, contribution: Any, loop: WalkedLoop, where: Any, values: Any, visible: Tensor
    ) -> None:
        run = self.interpreter
        carried = next(c for c in self.kernel.carried if c.name == contribution.carried)
        pair = {k: v for k, v in where.items() if k not in self.widths}
        term = run._value(contribution.term, pair, values)
        masked = np.where(visible, term, IDENTITY[carried.monoid])
        place = self.order(loop.walked).index(loop.walked)
        with np.errstate(all="ignore"):
            if contribution.operand is not None:
                held, expr = self.kernel.held, contribution.operand
                plain = not is_pairwise(expr, loop.walked, held)
                at = {k: v for k, v in where.items() if not (plain and k == held)}
                operand = run._value(expr, at, values)
                masked = np.where(visible, masked * operand, 0.0)
            combine = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
            reduced = combine[carried.monoid].reduce(masked, axis=place, keepdims=True)
            self.carried[carried.name] = combine[carried.monoid](
                self.carried[carried.name], reduced
            )

    def put(self, one: Any, loop: WalkedLoop, where: Any, values: Any, visible: Tensor) -> None:
        """A deposit, a scatter, or the numbers of pairs: entry by entry."""
        run = self.interpreter
        pair = {k: v for k, v in where.items() if k not in self.widths}
        bottom = getattr(one, "otherwise", 0.0)
        term = np.where(visible, run._value(one.term, pair, values), bottom)
        width = getattr(one, "width", None)
        if width is not None:
            deposited = isinstance(one, Deposit)
            plain = deposited and not is_pairwise(one.operand, self.kernel.held, loop.walked)
            other = loop.walked if plain else None
            at = {k: v for k, v in where.items() if k != other}
            operand = run._value(one.operand, at, values)
            with np.errstate(all="ignore"):
                term = np.where(visible, term * operand, 0.0)
        places = []
        cells = None  # a table may have rows or keys of its own
        if getattr(one, "at", None) is not None:
            cells = one.array.indices[-2 if width is not None else -1]
        for index in one.array.indices:
            if index in where and index is not cells:
                places.append(where[index] - run.first(index))
            else:
                cell = run._value(one.at, pair, values) - run.first(index)
                size = run.size(index)
                inside = (cell >= 0) & (cell < size)
                assert np.all(~visible | inside | (term == 0.0)), "outside its table"
                places.append(np.clip(cell, 0, max(size - 1, 0)))
        shape = np.broadcast_shapes(*(np.shape(p) for p in (*places, term)))
        full = [np.broadcast_to(p, shape) for p in places]
        value = np.broadcast_to(term, shape)
        if not value.size:
            return
        if isinstance(one, PairStore):
            run.arrays[one.array.name][tuple(full)] = value
        else:
            np.add.at(run.arrays[one.array.name], tuple(full), value)

    # -------------------------------------------------------------------------- regions

    def allowed(self, loop: WalkedLoop, walked: Tensor, visible: Tensor) -> bool:
        """Whether the tile is visited; asserts that the region says the truth."""
        run, region, held = self.interpreter, loop.region, self.kernel.held
        bounds: dict[str, Tensor] = {
            "held_low": self.held.min(),
            "held_high": self.held.max(),
            "walked_low": walked.min(),
            "walked_high": walked.max(),
        }
        rank = len(self.order(loop.walked))
        grid = {k: v for k, v in self.spread(self.order(loop.walked), {}).items() if k != held}
        for summary in region.summaries:
            along = self.held if summary.index == held else walked
            at = self.spread(self.order(loop.walked), {summary.index: along})
            kept = {k: v for k, v in at.items() if k in grid or k == summary.index}
            inner = run._value(summary.expr, kept, dict(self.values))
            axis = self.order(loop.walked).index(summary.index)
            bounds[f"{summary.name}_low"] = inner.min(axis=axis, keepdims=True)
            bounds[f"{summary.name}_high"] = inner.max(axis=axis, keepdims=True)
        values = {**self.values, **bounds}
        base = grid or {held: np.zeros((1,) * rank, int)}
        possible = run._value(region.possible, base, values).astype(bool)
        certain = run._value(region.certain, base, values).astype(bool)
        assert not np.any(visible & ~possible), "a visible pair in a tile that is not possible"
        assert not np.any(~visible & certain), "a masked pair in a tile that is certain"
        if region.segments:
            self.segments(region.segments, base, values, walked, visible)
        return bool(possible.any())

    def segments(
        self, segments: Iterable[Segment], base: Any, values: Any, walked: Tensor, visible: Tensor
    ) -> None:
        run = self.interpreter
        place = visible.ndim - 1 - len(self.widths)
        positions = walked.reshape([-1 if at == place else 1 for at in range(visible.ndim)])
        covered = np.zeros((), bool)
        for segment in segments:
            start, full_start, full_stop, stop = (
                run._value(e, base, values)
                for e in (segment.start, segment.full_start, segment.full_stop, segment.stop)
            )
            inside = (start <= positions) & (positions < stop)
            full = inside & (full_start <= positions) & (positions < full_stop)
            assert not np.any(~visible & full), "a masked pair in a full segment"
            covered = covered | inside
        assert not np.any(visible & ~covered), "a visible pair outside every segment"


def _into_memory(loop: WalkedLoop) -> tuple[Any, ...]:
    """What a loop adds to arrays in memory."""
    return (*loop.deposits, *loop.scatters, *loop.pair_stores)


def _late(loop: WalkedLoop) -> set[str]:
    """The running values, and the pair values that use one."""
    names = {running.name for running in loop.running}
    for let in loop.pair_values:
        if any(n.op == "value" and n.attr in names for n in postorder(let.expr)):
            names.add(let.name)
    return names


def _width_folds(expr: Expr, widths: Iterable[Index]) -> list[Expr]:
    """The outermost folds that bind a carried width."""
    found: list[Expr] = []
    stack = [expr]
    while stack:
        node = stack.pop()
        if node.op == "fold" and set(node.bound) & set(widths):
            found.append(node)
        else:
            stack.extend(node.args)
    return found


def _replace(expr: Expr, node: Expr, name: str) -> Expr:
    return rewrite(expr, lambda n: value(name, node.kind, node.free) if n == node else n)


def interpret(
    schedule: Schedule, arrays: Mapping[str, Tensor], **options: Any
) -> dict[str, Tensor]:
    """The outputs of a schedule by name (see Interpreter for the options)."""
    held, walked = options.pop("tiles", (5, 3))
    runner = Interpreter(schedule, dict(arrays), held_tile=held, walked_tile=walked, **options)
    stored = runner.run()
    return {output.name: stored[output.name] for output in schedule.signature.outputs}


def tile_sizes() -> list[tuple[int, int]]:
    """Some tile shapes that divide nothing."""
    return list(itertools.product((1, 3, 64), (1, 4, 64)))
