"""Prints a reversed scan in chunks as Triton: one program walks the blocks of an instance, or its
part of the widths, from the last to the first. From a block's checkpoint it runs the states on,
chunk by chunk, and keeps those before each; then it runs the chunks backwards, the adjoints of the
states in registers. What several programs have a share of is added up by the launch.

A width splits where all that is folded along it is linear in cotangents: programs that hold parts
of it start from their part of the cotangents alone.

How decays between rows are formed stands in templates/triton/chunks.py.jinja.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attnc.backends.scan_order import names_read
from attnc.backends.triton_chunks import DOT, ChunkStatements
from attnc.backends.triton_instance import InstancePrinter, Walk
from attnc.backends.triton_scan_back import ReverseScanPrinter
from attnc.backends.triton_texts import unwrapped

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, Expr, is_number, postorder
from attnc.schedule import Schedule
from attnc.schedule.chunks import (
    LaterRows,
    LogGradient,
    Pairs,
    RowSum,
    TransposedSolve,
    parts_of,
)
from attnc.schedule.scans import ReverseChunks, ReverseScanKernel, RowWrite
from attnc.schedule.statements import Contraction, Let, TriangularSolve


class ReverseChunkPrinter(ChunkStatements, ReverseScanPrinter):
    """A printer of a reversed scan whose rows come in chunks."""

    def __init__(self, kernel: ReverseScanKernel, schedule: Schedule) -> None:
        chunk = kernel.chunked
        assert chunk is not None
        self.kernel, self.replay, self.chunk = kernel, kernel.replay, chunk
        arrays = [write.array for write in (*chunk.writes, *kernel.ended)]
        arrays += [final.array for final in kernel.finals]
        states = (*self.replay.states, *kernel.carried)
        lets = (*kernel.grid_values, *chunk.values, *kernel.last)
        ended = (part for write in kernel.ended for part in (write.term, *write.at))
        once = (*(let.expr for let in lets), *kernel.initial, *kernel.ending, *ended)
        walk = Walk(
            kernel.grid, self.replay.time, states, (*arrays, *chunk.arrays), once, repeated(chunk)
        )
        self.shares: dict[Axis, frozenset[str]] = {}
        InstancePrinter.__init__(self, walk, schedule)
        self._chunks(self.replay.time, chunk.inner, schedule)
        self.arrays = {array.name: array for array in chunk.arrays}

    def split_axes(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        self.shares = shared_axes(self.kernel, self.chunk, axes)
        return tuple(self.shares)

    def _facts(self) -> dict[str, Any]:
        """As of rows; and whether many products of a chunk stand beside its states."""
        solves = any(isinstance(one, TriangularSolve) for one in self.chunk.inside)
        kept = {state.name for state in self._kept}
        parts: dict[str, list[str]] = {}
        for axis, names in self.shares.items():
            for name in sorted(names):
                parts.setdefault(name, []).append(axis.name)
        return {
            "split": tuple(axis.name for axis in self.split),
            "rooms": tuple(
                (state.name, state.kind, tuple(axis.name for axis in state.axes))
                for state in self.replay.states
                if state.name in kept
            ),
            "added": tuple(dict.fromkeys(w.array.name for w in self.kernel.ended if w.adds)),
            "parts": tuple((name, tuple(axes)) for name, axes in parts.items()),
            "crowded": solves or len(self.replay.states) > 1,
        }

    def print(self) -> dict[str, Any]:
        printed = super().print()
        names = ", ".join(array.name for array in self.kernel.carried)
        return {
            **printed,
            "function": f"kernel_{self.kernel.name}_chunks",
            "comment": [f'"""{names} in chunks, backwards."""'],
        }

    # --- Where the loops are ----------------------------------------------------------------------

    def _row_indices(self) -> tuple[Index, ...]:
        """Those of rows, of earlier rows, and those that sums over them bind."""
        found = {self.time: None, self.inner: None}
        for node in postorder(*self.walk.again):
            found.update(dict.fromkeys(i for i in node.bound if i.axis is self.time.axis))
        return tuple(found)

    def _first_values(self) -> tuple[Let, ...]:
        return (*self.kernel.grid_values, *self.chunk.values)

    def _slots(self) -> str:
        return f"({self.kernel.every} // CHUNK)"

    def _block_begins(self) -> tuple[list[str], list[str]]:
        lines, loads = super()._block_begins()
        name = self.scope.names.fresh("chunk_count")
        lines.append(f"{name} = ({self.count} + CHUNK - 1) // CHUNK")
        self.count = name
        return lines, loads

    def _enter_rows(self, at: str, lines: list[str]) -> None:
        self._enter_chunk(f"{self.first} // CHUNK + {at}", self._length(), lines)
        self.logs.clear()

    @property
    def _kept(self) -> tuple[Array, ...]:
        """The states that the way back reads."""
        chunk = self.chunk
        exprs = [part for one in chunk.inside for part in parts_of(one)]
        exprs += [part for write in chunk.writes for part in (write.term, *write.at)]
        names = names_read((*exprs, *chunk.advance))
        return tuple(state for state in self.replay.states if state.name in names)

    def _replayed(self) -> list[str]:
        """A chunk of the block once more: the states before it are kept, and run on if another
        follows."""
        lines: list[str] = []
        if not self._kept:
            return lines
        for state in self._kept:
            tile = self.places.states[state.name][0]
            lines.append(f"tl.store({self._room(state, 'at')}, {tile})")
        scope, states = self.scope, dict(self.places.states)
        onward: list[str] = []
        self._enter_rows("at", onward)
        for one in self.chunk.forward:
            self._statement(one, onward)
        self._carry(self.replay.states, self.chunk.onward, onward)
        self.scope, self.places.states = scope, states
        inner = [line for text in onward for line in text.split("\n")]
        return [*lines, f"if at + 1 < {self.count}:", *(f"    {line}" for line in inner)]

    def _backward(self) -> list[str]:
        """A chunk on the way back."""
        chunk, lines = self.chunk, list[str]()
        at = self.scope.names.fresh("back")
        lines.append(f"{at} = {self.count} - 1 - at")
        self._enter_rows(at, lines)
        begun = dict(self.places.states)
        for state in self._kept:
            name = self.scope.names.fresh(f"{state.name}_before")
            lines.append(f"{name} = tl.load({self._room(state, at)})")
            self.places.states[state.name] = (name, state)
        for one in chunk.inside:
            self._statement(one, lines)
        for write in chunk.writes:
            lines += self._row_written(write)
        self._carry(self.kernel.carried, chunk.advance, lines)
        self.places.states = begun
        return lines

    def _row_written(self, write: RowWrite) -> list[str]:
        body: list[str] = []
        printer = self._printer((self.time, *write.over), body, write.array.name)
        text = unwrapped(printer.real(printer.number(write.term), write.term))
        return self._put(write.array, write.at, text, printer)

    # --- Statements -------------------------------------------------------------------------------

    def _statement(self, statement: Any, lines: list[str]) -> None:
        """A statement; the array that it makes is read as states are."""
        array = self.arrays.get(statement.name)
        if array is None:
            super()._statement(statement, lines)
            return
        if isinstance(statement, Let):
            text = self._whole(array, statement.expr, lines)
        else:
            text = self._product(statement, lines)[0]
        name = self.scope.names.fresh(statement.name)
        lines.append(f"{name} = {text}")
        self.places.states[array.name] = (name, array)

    def _product(self, one: Any, lines: list[str]) -> tuple[str, tuple[Index, ...]]:
        if isinstance(one, (Contraction, TriangularSolve)):
            return super()._product(one, lines)
        array = self.arrays[one.name]
        over = self.places.ordered(array.indices)
        if isinstance(one, RowSum):
            return self._row_sum(one, over, lines), over
        if isinstance(one, TransposedSolve):
            matrix = self._pair(one.matrix, lines, one.name)
            right = self._tile(one.right, over, lines, one.name)
            text = f"gpu_solved_back({matrix}, {right}, CHUNK, CHUNK_BLOCK, CHUNK_PRECISION)"
            return text, over
        pair = self._pair(one.pair, lines, one.name)
        if isinstance(one, Pairs):
            return self._decayed(one, pair, lines), over
        if isinstance(one, LaterRows):
            return self._later(one, pair, over, lines), over
        assert isinstance(one, LogGradient)
        return self._log_gradient(one, pair, over, lines), over

    def _pair(self, expr: Expr, lines: list[str], stem: str) -> str:
        return self._tile(expr, (self.time, self.inner), lines, stem)

    def _row_sum(self, one: RowSum, over: tuple[Index, ...], lines: list[str]) -> str:
        tile = self._tile(one.expr, over, lines, one.name)
        if not one.own:
            shift = "gpu_shifted" if len(over) == 1 else "gpu_shifted_rows"
            tile = f"{shift}({tile}, {-1 if one.later else 1}, CHUNK)"
        return f"tl.cumsum({tile}, 0{', reverse=True' if one.later else ''})"

    def _decayed(self, one: Pairs, pair: str, lines: list[str]) -> str:
        seen = f"tl.where(gpu_seen({one.before}, CHUNK), {pair}, 0.0)"
        if is_number(one.log, 0):
            return seen
        return f"{seen} * gpu_between({self._log(one.log, lines)[0]}, {one.before}, CHUNK)"

    def _later(self, one: LaterRows, pair: str, over: tuple[Index, ...], lines: list[str]) -> str:
        right = self._tile(one.right, over, lines, one.name)
        if len(over) == 1:
            return f"tl.sum({pair} * {right}[:, None], 0)"
        if one.log is None:
            return f"tl.dot(tl.trans({pair}), {right}, {DOT})"
        log = self._log(one.log, lines)[0]
        return f"gpu_decayed_later({pair}, {right}, {log}, {one.before}, CHUNK, CHUNK_PRECISION)"

    def _log_gradient(
        self, one: LogGradient, pair: str, over: tuple[Index, ...], lines: list[str]
    ) -> str:
        if one.left is None or one.right is None or one.log is None:
            return f"gpu_crossing({pair}, {one.before}, CHUNK)"
        left, right = (self._tile(expr, over, lines, one.name) for expr in (one.left, one.right))
        log = self._log(one.log, lines)[0]
        options = f"{one.before}, CHUNK, CHUNK_PRECISION"
        return f"gpu_decayed_log({pair}, {left}, {right}, {log}, {options})"


def repeated(chunk: ReverseChunks) -> tuple[Expr, ...]:
    """The expressions of the loops over chunks."""
    return (
        *(part for one in (*chunk.forward, *chunk.inside) for part in parts_of(one)),
        *chunk.onward,
        *(part for write in chunk.writes for part in (write.term, *write.at)),
        *chunk.advance,
    )


# ------------------------------------------------------------------------------ parts of widths


def shared_axes(
    kernel: ReverseScanKernel, chunk: ReverseChunks, axes: Iterable[Axis]
) -> dict[Axis, frozenset[str]]:
    """The widths that programs may share, with the arrays of which each program has a share: all
    that are not over the width, for they are sums along it."""
    if kernel.ended:
        return {}
    together, cotangents = _Folds(kernel, chunk).found()
    arrays = (*kernel.replay.states, *kernel.carried)
    once = {axis for array in arrays for axis in array.axes if array.axes.count(axis) == 1}
    once = {axis for axis in once if all(axis in array.axes for array in cotangents)}
    results = {write.array.name: write.over for write in chunk.writes}
    results |= {final.array.name: final.state.indices for final in kernel.finals}
    return {
        axis: frozenset(
            name for name, over in results.items() if all(i.axis is not axis for i in over)
        )
        for axis in axes
        if axis in once - together
    }


class _Folds:
    """What is folded along widths: `linear` names what a cotangent is a factor of."""

    def __init__(self, kernel: ReverseScanKernel, chunk: ReverseChunks) -> None:
        self.kernel, self.chunk = kernel, chunk
        self.linear = {array.name for array in kernel.carried}
        self.cotangents: dict[str, Array] = {}

    def found(self) -> tuple[set[Axis], tuple[Array, ...]]:
        """The axes along which something is folded that no cotangent is a factor of, or whose
        entries meet two and two; the cotangents that are read."""
        kernel, chunk = self.kernel, self.chunk
        together: set[Axis] = set()
        for one in (
            *kernel.grid_values,
            *chunk.values,
            *kernel.last,
            *chunk.forward,
            *chunk.inside,
        ):
            parts = parts_of(one)
            together |= {axis for expr in parts for axis in self._met(expr)}
            if any(map(self._given, parts)):
                self.linear.add(one.name)
            elif isinstance(one, Contraction):
                together.add(one.along.axis)
        exprs = (*chunk.onward, *chunk.advance, *kernel.initial, *kernel.ending)
        for expr in (*exprs, *(write.term for write in chunk.writes)):
            together |= self._met(expr)
        return together, tuple(self.cotangents.values())

    def _given(self, expr: Expr) -> bool:
        """Whether a cotangent is a factor of an expression."""
        given = set(self.kernel.cotangents)
        reads = (node.array.name for node in postorder(expr) if node.op == "read")
        return bool(names_read((expr,)) & self.linear) or any(name in given for name in reads)

    def _met(self, expr: Expr) -> set[Axis]:
        """The axes along which an expression folds what is not linear, or is over twice."""
        found: set[Axis] = set()
        for node in postorder(expr):
            axes = [index.axis for index in node.free]
            found |= {axis for axis in axes if axes.count(axis) > 1}
            if node.op == "fold" and not self._given(node):
                found |= {index.axis for index in node.bound}
            if node.op == "read" and node.array.name in self.kernel.cotangents:
                self.cotangents[node.array.name] = node.array
        return found
